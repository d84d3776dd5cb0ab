"""A config file is a person's code: whatever it does instead of giving a config is one line."""

import pytest
from command_lines import fails, here

from experiments import commandline, train


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def get_config():\n    import sys\n    sys.exit(0)", "SystemExit: 0 (mine.py, line 3)"),
        ("def get_config():\n    exit()", "fails: SystemExit"),
        ("raise SystemExit", "fails: SystemExit (mine.py, line 1)"),
        ("raise KeyboardInterrupt", "fails: KeyboardInterrupt"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "fails: Odd: odd"),
        ("def get_config():\n    open('/nowhere/at/all')", "FileNotFoundError"),
        ("def get_config():\n    b'\\xff'.decode()", "UnicodeDecodeError"),
        ("def get_config():\n    yield", "gives a generator; allowed: a ConfigDict"),
        ("def get_config():\n    pass", "gives a NoneType; allowed: a ConfigDict"),
        ("def get_config():\n    return {'epochs': 3}", "gives a dict; allowed: a ConfigDict"),
        ("def get_config(kind):\n    return kind", "missing 1 required positional argument"),
        ("config = 5", "no function get_config()"),
        ("get_config = 5", "TypeError"),
        ("def get_config(:", "SyntaxError"),
        ("\0", "SyntaxError"),
        ("import dynhp_jax as dp\ndp.Config(epochs=0)", "config.epochs is 0; allowed"),
        ("import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict("
         "{'a': ml_collections.config_dict.required_placeholder(int)})", "RequiredValueError"),
    ],
)  # fmt: skip
def test_a_config_file_that_gives_no_config_is_one_line(content, said, tmp_path, capfd):
    file = tmp_path / "mine.py"
    file.write_text(content)
    workdir = tmp_path / "run"
    found = fails(capfd, train.main, f"--config={file}", f"--workdir={workdir}")
    assert str(file) in found and said in found and not workdir.exists()
    with pytest.raises(SystemExit) as ended:
        train.main(["train", f"--config={file}", "--help"])
    assert not ended.value.code and "--config" in capfd.readouterr().out


def test_ctrl_c_while_a_config_file_runs_is_no_failure_of_it(tmp_path, capfd):
    file = tmp_path / "slow.py"
    file.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code, _, said = here(capfd, train.main, f"--config={file}")
    assert code == 130 and said.startswith("interrupted: ") and said.count("\n") == 1


def test_a_config_file_takes_an_argument_and_overrides(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dynhp_jax.training.config import default_config_dict\n"
        "def get_config(name='none'):\n"
        "    config = default_config_dict()\n"
        "    config.name = name\n"
        "    return config\n"
    )
    for flags, expected in (
        ([f"--config={file}:mine", "--config.epochs=7"], ("mine", 7)),
        (["--config.epochs=7", "--config", f"{file}"], ("none", 7)),
        (["--config=nowhere.py", f"--config={file}:b"], ("b", 100)),
    ):
        values, _ = commandline.parse(["train", *flags], with_config=True)
        assert (values.name, values.epochs) == expected
