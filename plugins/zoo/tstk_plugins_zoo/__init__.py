"""Published models, each as a tokenizer and an encoder: PatchTST, PatchTSMixer, Chronos-Bolt, MOMENT, Mantis."""
