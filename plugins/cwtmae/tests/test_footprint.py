"""The measurement of time and memory runs real training steps."""

import json

import pytest
from click.testing import CliRunner
from tstk_plugins_cwtmae.footprint import main, measure_footprint

from tstk.errors import OptionError


@pytest.mark.slow
def test_steps_are_measured_with_their_share_of_the_image():
    footprint = measure_footprint("cwtmae/tiny", batch=2, length=500, steps=2)
    assert footprint["parameters"] == 347_434
    assert footprint["image_bytes"] == 2 * 3 * 16 * 500 * 4
    assert len(footprint["seconds"]) == 2
    assert all(0 < share < 1 for share in footprint["image_share"])
    assert footprint["peak_bytes"] >= footprint["before_bytes"] > 1e8


def test_the_command_says_it_as_json_and_options_change_the_config():
    result = CliRunner().invoke(
        main,
        ["--config", "cwtmae/tiny", "--batch", "1", "--length", "500", "--steps", "1", "--set", "tokenizer.scales=8"],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["image_bytes"] == 3 * 8 * 500 * 4


def test_other_tokenizers_have_no_image(tmp_path):
    path = tmp_path / "patches.toml"
    path.write_text('[loss]\nuse = "masked"\n')
    with pytest.raises(OptionError, match="expected tokenizer"):
        measure_footprint(str(path), length=128, steps=1)
