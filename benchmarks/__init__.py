"""How fast the operations of tstk are, beside what else one could use, and whether they are right."""
