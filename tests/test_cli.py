"""The command lines: what they print, how they fail (one sentence, exit code 2), their progress."""

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.threat import Norm
from benchmark import examples, provenance, records, run, verify, workers
from benchmark.command import command, sentence
from benchmark.presets import PRESETS
from benchmark.progress import Progress, clock
from benchmark.records import DISTANCE_DECIMALS, Outcome
from benchmark.runner import Plan, sweep
from benchmark.workers import Workers
from tests.fakes import TINY, Images, arm, shelf

SMOKE = ["--dataset", "digits", "--defense", "cnn", "--preset", "smoke", "--jobs", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(trained, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(trained))


def failure(capsys, arguments, main=run.main):
    """The sentence on stderr of a command that must fail."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    *progress, line = printed.err.splitlines()
    assert not any("error" in told or "Traceback" in told for told in progress)
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "digit"],
            "unknown data set 'digit'; did you mean 'digits'? available: digits,",
        ),
        (["--defense", "cnn,eab"], "unknown defense 'eab'; did you mean 'eabs'? available: cnn,"),
        (
            ["--attack", "pdg-l2"],
            "unknown attack 'pdg-l2'; did you mean 'pgd-l2'? available: pgd-linf,",
        ),
        (["--attack", "all_12"], "unknown attack 'all_12'; did you mean 'all_l2'? available:"),
        (["--attack", "pgd-l2[stps=3]"], "unknown field of attack 'pgd-l2': 'stps'; did you mean"),
        (
            ["--preset", "quik"],
            "unknown preset 'quik'; did you mean 'quick'? available: smoke, quick, paper",
        ),
        (
            ["--epsilons", "-1"],
            "epsilon must be above 0 and at most 1, the linf diagonal of the images' box, got -1",
        ),
        (
            ["--epsilons", "nan"],
            "epsilon must be above 0 and at most 1, the linf diagonal of the images' box, got nan",
        ),
        (
            ["--attack", "ddn", "--epsilons", "9"],
            "epsilon must be above 0 and at most 8, the l2 diagonal",
        ),
        (["--epsilons", "1/0"], "epsilons must be numbers separated by commas, got '1/0'"),
        (["--epsilons", "a,b"], "epsilons must be numbers separated by commas, got 'a,b'"),
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--samples", "501"], "samples must be at most 500 for digits, got 501"),
        (["--samples", "x"], "Invalid value for '--samples'"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--backend", "ray"], "backend must be one of loky, dask, got 'ray'"),
        (["--backend", "dask"], "scheduler must be the address of a dask scheduler"),
        (["--device", "warp"], "device must be available here, got 'warp'"),
        (["--device", "cuda:99"], "device must be available here, got 'cuda:99'"),
        (["--defnse", "cnn"], "No such option: --defnse"),
        (
            ["--defense", "cnn,gmvae", "--attack", "fgsm@encoder,all_linf@encoder"],
            "suite must know what gmvae refuses, got 'all_linf@encoder'",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(capsys, tmp_path, arguments, message):
    assert failure(capsys, [*arguments, "--results", str(tmp_path)]).startswith(message)
    assert not list(tmp_path.rglob("*.parquet"))


def test_cuda_without_an_accelerator_is_a_sentence(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: torch.zeros(0).cuda(99))
    assert failure(capsys, ["--device", "cuda"]).startswith(
        "device must be available here, got 'cuda'"
    )


def test_a_cluster_without_its_library_is_a_sentence(capsys, monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda _: None)
    message = failure(capsys, ["--backend", "dask", "--scheduler", "tcp://localhost:1"])
    assert message.startswith("backend dask must have dask.distributed installed, got none; pip")


def test_a_missing_data_file_says_what_where_and_from_which_address(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    message = failure(capsys, ["--dataset", "mnist", "--results", str(tmp_path)])
    assert re.search(r"is missing.*; put .*it comes from https?://", message)


def test_an_unwritable_results_folder_is_a_sentence(capsys, tmp_path):
    (tmp_path / "file").touch()
    message = failure(capsys, [*SMOKE, "--results", str(tmp_path / "file" / "results")])
    assert re.search(r"could not be written \(not a directory\)", message)


def test_corrupted_weights_are_a_sentence_that_names_the_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    arguments = [*SMOKE, "--attack", "fgsm", "--results", str(tmp_path / "one")]
    assert run.main(arguments) == 0
    capsys.readouterr()
    (weights,) = (tmp_path / "cache" / "weights").rglob("cnn-*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    message = failure(capsys, [*arguments[:-1], str(tmp_path / "two"), "--seed", "1"])
    assert weights.name in message
    assert "delete the file" in message


def test_a_run_prints_its_table_and_names_its_files(capsys, tmp_path):
    assert run.main([*SMOKE, "--attack", "fgsm", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "Clean" in printed.out
    assert "fgsm" in printed.out
    named = [line.removeprefix("wrote ") for line in printed.out.splitlines() if "wrote " in line]
    assert f"{tmp_path}/digits/accuracy-smoke.csv" in named
    assert f"2 records in {tmp_path}/digits/records" in named
    assert "attacks: 8/8" in printed.err


@pytest.mark.parametrize("attack", ["overpowered-l2", "overpowered-unrestricted"])
def test_a_norm_without_an_applicable_attack_keeps_its_rows_and_says_why(capsys, tmp_path, attack):
    assert run.main([*SMOKE, "--attack", attack, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"{attack} +n/a", printed)
    assert "FeedForward has no decoder" in printed


def test_the_list_names_everything_without_running(capsys):
    assert run.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in ("digits", "eabs", "pgd-l2", "all_linf", "paper"):
        assert re.search(rf"^  {name} ", printed, re.MULTILINE)


@pytest.mark.parametrize("main", [run.main, verify.main])
def test_help_is_printed(capsys, main):
    assert main(["--help"]) == 0
    assert "--dataset" in capsys.readouterr().out


def test_epsilons_may_be_fractions():
    assert run.numbers("0.5, 8/255,1e-2") == (0.5, 8 / 255, 0.01)


@pytest.mark.parametrize(("text", "pixels"), [("0.5,1,8/255,3", (1.0, 3.0)), ("0.5,8/255", (1.0,))])
def test_numbers_of_pixels_are_whole_and_the_data_sets_own_where_none_is(text, pixels):
    given = run._for_every_norm(run.numbers(text))
    assert given[Norm.L2] == given[Norm.LINF] == run.numbers(text)
    assert given.get(Norm.L0, Images().epsilons[Norm.L0]) == pixels


def test_failed_cells_show_in_the_table_and_in_the_exit_code(tmp_path):
    plan = Plan(dataset="images", defenses=("broken",), attacks=("walk",), preset=TINY)
    with Progress(silent=True) as progress:
        paths = sweep(plan, results=tmp_path, jobs=1, progress=progress, shelf=shelf())
    with pytest.raises(
        ValueError, match="2 of 2 cells failed, first broken, clean: RuntimeError: the"
    ):
        run.require_success(paths)


def entry(error):
    def fail() -> None:
        raise error

    return command(fail)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x must be 1,\n got 2"), "x must be 1, got 2"),
        (LookupError("unknown x"), "unknown x"),
        (
            FileNotFoundError(2, "No such file or directory", "a/b"),
            "no such file or directory: a/b",
        ),
        (OSError(28, "the disk is full"), "the disk is full"),
    ],
)
def test_expected_errors_become_one_sentence(capsys, monkeypatch, error, text):
    monkeypatch.delenv("BENCH_TRACEBACK", raising=False)
    assert failure(capsys, [], entry(error)) == text
    assert sentence(error) == text


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError("x"), TypeError("x"), ZeroDivisionError()]
)
def test_defects_of_ours_keep_their_traceback(error):
    with pytest.raises(type(error)):
        entry(error)([])


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("BENCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"):
        entry(ValueError("why"))([])


def test_an_interruption_says_how_to_go_on(capsys):
    assert entry(KeyboardInterrupt())([]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_command_returns_its_own_exit_code():
    def seven() -> int:
        return 7

    assert command(seven)([]) == 7


def test_progress_without_a_terminal_is_a_plain_line_with_the_label_untouched():
    stream = io.StringIO()
    with Progress(stream) as progress:
        bar = progress.start("pgd-l2[steps=3]", 4)
        bar.advance(3, "[eabs]")
        bar.advance()
        bar.finish()
        progress.print("[done]")
    assert stream.getvalue() == "pgd-l2[steps=3]: 4/4 in 0 s ([eabs])\n[done]\n"


def test_silent_progress_prints_nothing():
    stream = io.StringIO()
    with Progress(stream, silent=True) as progress:
        progress.start("x", 1).finish()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01"), (3725, "1:02:05")]
)
def test_durations_are_for_people(seconds, text):
    assert clock(seconds) == text


def test_the_command_line_is_kept_without_folders(monkeypatch):
    arguments = ["/home/me/code/benchmark/run.py", "--results", "/data/x y", "--epsilons", "8/255"]
    monkeypatch.setattr("sys.argv", arguments)
    told = provenance.origin("cpu")["command"]
    assert told == "python -m benchmark.run --results 'x y' --epsilons 8/255"


def test_one_job_per_processor_is_the_default_on_processors():
    assert Workers.of(None, "cpu").jobs >= 1
    assert Workers.of(3, "cpu") == Workers(3, "cpu")
    assert Workers.of(None, "auto").device in {"cpu", "cuda"}


def test_the_block_size_does_not_change_the_records_of_a_real_network(tmp_path):
    attacks = ("pgd-l2", "ddn", "cw-l2", "deepfool-linf", "noise-linf", "boundary", "fgsm")
    frames = []
    for block in (24, 7):
        plan = Plan(
            dataset="digits",
            defenses=("cnn",),
            attacks=attacks,
            preset=replace(PRESETS["smoke"], block=block),
            samples=24,
            epsilons={Norm.L2: (0.2, 0.5), Norm.LINF: (0.05, 0.1)},
        )
        with Progress(silent=True) as progress:
            paths = sweep(plan, results=tmp_path / str(block), jobs=1, progress=progress)
        frames.append(records.read(paths))
    assert set(frames[0]["outcome"]) == {Outcome.CORRECT, Outcome.WRONG}
    pd.testing.assert_frame_equal(*frames, rtol=0, atol=1.1 * 10**-DISTANCE_DECIMALS)


@pytest.fixture
def walked(tmp_path, monkeypatch):
    """Records of a noisy and a plain defense, with the presets' table knowing theirs."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    plan = Plan(
        dataset="images", defenses=("brightness", "noisy"), attacks=("walk", "needy"), preset=TINY
    )
    with Progress(silent=True) as progress:
        return sweep(plan, results=tmp_path, jobs=1, progress=progress, shelf=shelf())


def recounts(paths):
    with Progress(silent=True) as progress:
        return list(
            verify.recounts(
                paths, "images", device="cpu", repetition=0, progress=progress, shelf=shelf()
            )
        )


def test_verifying_agrees_with_honest_records(walked):
    found = recounts(walked)
    assert [(one.cell.defense, one.cell.attack) for one in found] == [
        ("brightness", "walk"),
        ("noisy", "walk"),
    ]
    lines, disagree = verify.report(found)
    assert not disagree
    assert re.fullmatch(
        r"brightness, walk, epsilon 0.2: accuracy \d+.\d% recorded, \d+.\d% now, no sample flips",
        lines[0],
    )


def test_verifying_finds_a_single_forged_row_of_a_deterministic_defense(walked):
    frame, metadata = records.load(walked[1])
    row = frame.index[frame["outcome"] == Outcome.CORRECT][0]
    frame.loc[row, "outcome"] = Outcome.WRONG
    records.write(walked[1], frame, metadata)
    found = recounts(walked)
    assert found[0].flipped == [frame.loc[row, "sample"]]
    lines, disagree = verify.report(found)
    assert disagree
    assert lines[0].endswith("flip (more than chance)")


def test_verifying_finds_points_that_left_the_ball(walked):
    cell = records.cell_of(records.provenance(walked[1]))
    images = Images().load().test.images
    for path, block in zip(
        sorted(examples.examples_folder(cell).iterdir()),
        list(examples.blocks(cell, images)),
        strict=True,
    ):
        moved = examples.Examples(block.samples, block.images, 1 - block.points)
        examples.store(path.parent, int(path.stem), moved)
    (found, _) = recounts(walked)
    assert (found.found == Outcome.INVALID).sum() > 6


def test_chance_flips_of_a_stochastic_defense_are_no_disagreement(walked):
    cell = records.cell_of(records.provenance(walked[4]))
    correct, wrong = np.full(20, Outcome.CORRECT), np.full(20, Outcome.WRONG)
    few, many = correct.copy(), correct.copy()
    few[:3], many[:12] = Outcome.WRONG, Outcome.WRONG
    numbers = np.arange(20)
    for found, disagree in ((few, False), (many, True), (wrong, True)):
        one = verify.Recount(cell, 0.2, numbers, correct, found, stochastic=True)
        assert verify.report([one])[1] == disagree


def test_other_weights_than_the_records_cannot_be_verified(walked, monkeypatch):
    def other(*arguments):
        armed = arm(*arguments)
        return type(armed)(armed.name, armed.repr, "other weights", armed.load)

    changed = type(shelf())({"images": Images()}, {}, other)
    with Progress(silent=True) as progress, pytest.raises(ValueError, match="data and weights of"):
        list(
            verify.recounts(
                walked, "images", device="cpu", repetition=0, progress=progress, shelf=changed
            )
        )


def test_verify_says_what_is_missing(capsys, tmp_path):
    message = failure(capsys, ["--dataset", "digits", "--results", str(tmp_path)], verify.main)
    assert "records in" in message
    assert "are missing" in message


def test_verify_runs_on_real_records(capsys, tmp_path):
    assert run.main([*SMOKE, "--attack", "ddn", "--results", str(tmp_path)]) == 0
    capsys.readouterr()
    assert verify.main(["--dataset", "digits", "--results", str(tmp_path)]) == 0
    assert "no sample flips" in capsys.readouterr().out
