"""Scripts, started as a user does: what they print, how they end, and those that take long."""

import os
import re
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from cifar_fast.data.sources import load_images
from pages import ROOT, all_commands


def offline(tmp_path):
    "An environment in which every download fails at once, so that `auto` means digits and random weights."
    proxy = {f"{o}_proxy": "http://127.0.0.1:9" for o in ("http", "https")}
    keep = {k: v for k, v in os.environ.items() if k.lower() not in ("no_proxy", "cifar_fast_data")}
    own = {"CIFAR_FAST_CACHE": str(tmp_path / "cache"), "TORCH_HOME": str(tmp_path / "torch"), "MPLBACKEND": "Agg"}
    return {**keep, **proxy, **own}


def documented(name):
    "The first command of the pages that starts this script: its path, and its options."
    return all_commands(f"python experiments/{name}.py")[0][1:]


def run(args, tmp_path, **kwargs):
    env = offline(tmp_path)
    return subprocess.run([sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, **kwargs)


def test_help_and_refusals_import_nothing_heavy(tmp_path):
    for script in (
        "custom",
        "transfer",
        "bench",
        "compare",
        "evaluate",
        "reproduce",
        "predict",
        "serve",
        "sweep",
        "speedrun",
    ):
        code = (
            "import runpy, sys\n"
            "for args in (['--help'], ['--no-such-option'], ['--bs', 'many']):\n"
            f"    sys.argv = ['x', *args]\n"
            "    try:\n"
            f"        runpy.run_path({str(ROOT / 'experiments' / f'{script}.py')!r}, run_name='__main__')\n"
            "    except SystemExit as end:\n"
            "        print('ended with', end.code)\n"
            "print('heavy', sorted({'torch', 'fastai', 'matplotlib', 'sklearn'} & set(sys.modules)))\n"
        )
        out = run(["-c", code], tmp_path).stdout
        assert re.findall(r"ended with (\d)", out) == ["0", "2", "2"], out
        assert "heavy []" in out


@pytest.mark.parametrize("args", [["--data", "digits", "--device", "warp"], ["--epcohs", "3"]])
def test_unusable_input_is_one_line_and_exit_code_2(tmp_path, args):
    done = run([ROOT / "experiments/custom.py", *args], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and args[-1] in done.stderr


@pytest.mark.slow
def test_a_run_without_a_network_says_what_it_is_about_and_leaves_its_folder(tmp_path):
    out = tmp_path / "run"
    done = run([ROOT / "experiments/transfer.py", "--epochs", "1", "--run", out], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NOT CIFAR-10" in done.stderr and "digits, not CIFAR-10" in done.stdout.splitlines()[-1]
    assert "\r" not in done.stdout and "\x1b" not in done.stdout
    assert (out / "report.html").exists() and (out / "metrics.json").exists() and (out / "export.pkl").exists()


@pytest.mark.slow
def test_records_are_run(tmp_path):
    script, *args = documented("speedrun")
    done = run([ROOT / script, *args, "--run", "fast"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs at 90 % or above" in done.stdout and "not CIFAR-10" in done.stdout.splitlines()[-1]
    assert "\r" not in done.stdout and (tmp_path / "fast/report.html").exists()


@pytest.mark.slow
@pytest.mark.long
def test_the_article_is_repeated_by_one_command(tmp_path):
    script, *args = documented("reproduce")
    done = run([ROOT / script, *args, "--epochs", "1", "--parts", "article", "--weights", "none"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not CIFAR-10" in (tmp_path / "runs/reproduce/index.html").read_text()


@pytest.mark.slow
def test_a_model_is_served_until_ctrl_c(tmp_path):
    script, _ = documented("serve")
    model = ROOT / "tests/kept/digits-format-1"
    command = [sys.executable, ROOT / script, model, "--port", "7896"]
    served = subprocess.Popen(command, env=offline(tmp_path), stdout=subprocess.PIPE, text=True)
    assert served.stdout.readline() == "http://127.0.0.1:7896\n"
    for _ in range(100):
        try:
            page = urlopen("http://127.0.0.1:7896", timeout=5).read()
            break
        except OSError:
            time.sleep(0.2)
    served.send_signal(signal.SIGINT)
    assert b"cifar_fast" in page and served.wait(timeout=30) in (0, 130)


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_runs(tmp_path):
    args = ["--data", "digits", "--images", "128", "--repeats", "1", "--seeds", "2", "--quick"]
    done = run([ROOT / "experiments/bench.py", *args, "--rows", "custom,augmented,decoding,single,shipped"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "compute limit" in done.stdout and (tmp_path / "bench.json").exists()


@pytest.mark.slow
@pytest.mark.real
def test_real_cifar10_is_recognised_and_learnt(real_data, tmp_path):
    assert load_images(real_data).is_cifar10
    args = [
        "--data",
        real_data,
        "--epochs",
        "1",
        "--images",
        "10000",
        "--test-images",
        "2000",
        "--run",
        tmp_path / "run",
    ]
    last = run([ROOT / "experiments/custom.py", *args], tmp_path).stdout.splitlines()[-1]
    assert last.startswith("a part of CIFAR-10 (10,000 + 2,000 images)")
    assert float(re.search(r"accuracy ([\d.]+)%", last)[1]) > 30
