"""A job file that is wrong becomes one sentence about the first thing wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from search.job import Job
from tests.search.job.conftest import JOB, job_with, load, refusal


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ('"0%"', 'has the level "0%", but no network costs nothing; allowed: percentages above 0% and below'),
        ('["50%", "101%"]', 'has the level "101%", but the dense model costs 100% as it is; allowed: perc'),
        ('"80%..20%"', 'has the range "80%..20%", which does not rise; write the lower percentage first'),
        ('"50%..50%"', 'has the range "50%..50%", which does not rise'),
        (
            '"20%..101%"',
            'has the range "20%..101%"; allowed: from above 0% up to 100%, which is all of dense',
        ),
        ('"0%..50%"', 'has the range "0%..50%"; allowed: from above 0%'),
        ('"0.01%..50%"', 'has the range "0.01%..50%", of which a level comes to 0%, as those of ranges are'),
        ('"20%..99.96%"', "of which a level comes to 100%, as those of ranges are tenths of percents; write"),
    ],
)
def test_a_level_that_no_budget_can_have_is_refused_with_the_reason(
    written: str, sentence: str, folder: Path
) -> None:
    found = refusal(folder, job_with("budget", f"macs = {written}"))
    assert found.startswith("budget.macs has the ")
    assert sentence in found


@pytest.mark.parametrize(
    ("table", "line", "closest"),
    [
        ("data", 'sorce = "digits"', "did you mean 'source'?"),
        ("search", "trails = 60", "did you mean 'trials'?"),
        ("finetune", "epochs = 3", "allowed: augment, batch_size, brief_steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    folder: Path, table: str, line: str, closest: str
) -> None:
    sentence = refusal(folder, job_with(table, line))
    assert sentence.startswith(f"{table}.{line} is an unknown key; {closest}")


def test_unknown_tables_and_keys_inside_tables_are_found_too(folder: Path) -> None:
    assert refusal(folder, JOB.replace("[budget]", "[budgte]")) == (
        """budgte = {"latency": "50%"} is an unknown key; did you mean 'budget'?"""
    )
    assert refusal(folder, JOB.replace("shape", "shap")) == (
        "model.input.shap = [3, 32, 32] is an unknown key; did you mean 'shape'?"
    )
    assert refusal(folder, JOB + "[[devices]]\nbach = 2") == (
        "devices[0].bach = 2 is an unknown key; did you mean 'batch'?"
    )
    assert refusal(folder, "folder = 1\n" + JOB).startswith("folder = 1 is an unknown key")


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("[budget]", "budget is missing; allowed: a table"),
        ('source = "parquet"', "data.source is missing; allowed: digits, npz, parquet, folder, factory"),
        ("shape = [3, 32, 32]", "model.input.shape is missing; allowed: sizes of 1 or more"),
        ('train = "train.parquet"', "data lacks train, the path that source 'parquet' reads; add it"),
        ('factory = "model:resnet"', "model needs factory or bundle; it has neither"),
        ("input = { shape = [3, 32, 32] }", "model needs input = { shape = [...] } or one [[model.inputs]]"),
    ],
)
def test_a_missing_key_is_named(folder: Path, written: str, sentence: str) -> None:
    # The last table is [budget]: what is left of it without its heading would belong to [data].
    text = JOB.partition("[budget]")[0] if written == "[budget]" else JOB.replace(written, "")
    assert refusal(folder, text).startswith(sentence)


@pytest.mark.parametrize(
    ("table", "line", "sentence"),
    [
        ("budget", "latency = []", "budget needs one or more of latency_ms, latency, latency_p99_ms, lat"),
        (
            "budget",
            'latency = ["20%", "50%"]\nmacs = [5, 6]',
            "budget has several levels of latency and of macs; allowed: of one key, which draws the front",
        ),
        ("budget", "energy = 2.0", 'budget has a number as energy; write energy = "50%" for a share'),
        ("budget", 'latency_p99_ms = "5%"', "budget has a percentage as latency_p99_ms; write latency_p99 ="),
        (
            "budget",
            "latency = 2.0",
            'budget has a number as latency; write latency = "50%" for a share of dense, '
            "or latency_ms = 2.0 for milliseconds",
        ),
        ("model", 'bundle = "resnet.bundle"', "model needs factory or bundle; it has both"),
        ("model", "inputs = [{ shape = [3] }]", "model needs input = { shape = [...] } or one"),
        ("data", 'source = "digits"', "data has train, but source 'digits' makes its own splits; remove it"),
        ("data", 'factory = "data:splits"', "data has factory or args, which source 'parquet' does not use"),
        (
            "data",
            'train = { path = "x", rows = [5, 5] }',
            "data.train has rows = [5, 5]; allowed: 0 <=",
        ),
    ],
)
def test_keys_that_do_not_fit_together_are_named(folder: Path, table: str, line: str, sentence: str) -> None:
    assert refusal(folder, job_with(table, line)).startswith(sentence)


def test_a_pattern_of_zeros_has_no_scope(folder: Path) -> None:
    sentence = refusal(folder, job_with("sparsity", 'zeros = "2:4"\nscope = "layer"'))
    assert sentence == "sparsity has scope, but the pattern '2:4' holds in every layer; remove it"


def test_a_bundle_brings_everything_about_the_model(folder: Path) -> None:
    text = job_with("model", 'bundle = "resnet.bundle"', "factory", "input")
    assert refusal(folder, text) == "model has checkpoint, which a bundle brings itself; remove it"


def test_two_inputs_may_not_share_a_name(folder: Path) -> None:
    text = job_with("model", "inputs = [{ shape = [3] }, { shape = [4] }]", "input")
    assert refusal(folder, text).startswith("model has inputs named ['input', 'input']")


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ("[[devices]]\n[[devices]]", "has [[devices]] called 'this-cpu' and 'this-cpu'; give each a name"),
        (
            '[[devices]]\nname = "Npu"\n[[devices]]\nname = "npu"',
            "has [[devices]] called 'Npu' and 'npu'; give each a name of its own, whatever the case",
        ),
        (
            "[[devices]]\nlatency_ms = 5",
            "has a latency of its own for its first device",
        ),
        (
            '[[devices]]\n[[devices]]\nname = "b"\nlatency_ms = [5, 6]',
            "has 2 levels of latency_ms for 'b'; allowed: one, or as many as [budget] has, which is 1",
        ),
    ],
)
def test_devices_that_cannot_share_a_job_are_refused(folder: Path, devices: str, sentence: str) -> None:
    assert refusal(folder, JOB + devices).startswith(f"the job {sentence}")


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ('name = "a/b"', 'devices[0].name = "a/b" is not allowed; allowed: up to 64 letters, digits'),
        ('precision = "int4"', 'devices[0].precision = "int4" is none of fp32, tf32, fp16'),
        ('latency = "50%"\nlatency_ms = 5', "has both latency_ms and latency; allowed: one of them"),
        ('latency_ms = "50%"', "has a percentage as latency_ms; write latency ="),
        ('profile = "jetson"', "has profile and no name; say what reports call that device"),
        (
            'name = "b"\nprofile = "b"\nthreads = 2',
            "has threads beside profile, which says how",
        ),
        ('name = "b"\nprofile = "b.parquet"', 'profile = "b.parquet" does not exist'),
    ],
)
def test_a_device_that_is_told_twice_or_half_is_refused(folder: Path, device: str, sentence: str) -> None:
    assert sentence in refusal(folder, f"{JOB}[[devices]]\n{device}")


def test_a_job_without_a_device_is_refused(folder: Path) -> None:
    sentence = "the job has no [[devices]]; leave the key out for this machine's CPU, or name one"
    assert refusal(folder, "devices = []\n" + JOB) == sentence


@pytest.mark.parametrize(
    ("table", "line", "allowed"),
    [
        ("model", 'factory = "model.resnet"', '"module:function"'),
        ("model", 'checkpoint = "resnet.pkl"', "a .safetensors, .pt or .pth file"),
        ("model", "input = 3", "a table"),
        ("data", "train = 7", 'a path, or { path = "...", rows = [0, 5000] }'),
        ("budget", 'latency = ["50%", "50.0%"]', "a number above 0, a percentage"),
        ("budget", "latency = true", "a number above 0, a percentage"),
        ("budget", "latency = -1", "a number above 0, a percentage"),
        ("budget", 'macs = "20..50%"', 'a number above 0, a percentage above "0%" and below "100%", a list'),
        ("budget", "accuracy_drop = -0.1", "points of accuracy, a number from 0 to below 100"),
        ("budget", 'accuracy_drop = "1%"', "points of accuracy, a number from 0"),
        ("search", "trials = 0", "an integer of 1 or more"),
        ("search", 'trials = "60"', "an integer of 1 or more"),
        ("search", "trials = true", "an integer of 1 or more"),
        ("search", "workers = 65", "an integer from 1 to 64"),
        ("search", "seed = -1", "an integer from 0 to"),
        ("search", "lowest_keep = 1.5", "a fraction above 0 and up to 1"),
        ("finetune", "learning_rate = -0.1", "a number from 0 to 1000000"),
        ("finetune", "learning_rate = 1e+38", "a number from 0 to 1000000"),
        ("finetune", "distill = 1.1", "a fraction from 0 to 1"),
        *(
            ("sparsity", f"zeros = {zeros}", "a fraction from 0 to below 1, or how many weights stay of how")
            for zeros in ("1.0", "-0.1", "true", '"4:2"', '"0:4"', '"2 of 4"', '"100:200"')
        ),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(
    folder: Path, table: str, line: str, allowed: str
) -> None:
    sentence = refusal(folder, job_with(table, line))
    assert sentence.startswith(f"{table}.{line} is not allowed; allowed: {allowed}")


def test_numbers_that_no_machine_could_hold_are_refused(folder: Path) -> None:
    text = job_with("model", "input = { shape = [3], high = 2147483649 }")
    sentence = "high = 2147483649 is not allowed; allowed: an integer from 1 to 2147483648"
    assert refusal(folder, text) == f"model.input.{sentence}"
    given = f"finalists = {2**31}"
    sentence = f"search.{given} is not allowed; allowed: an integer of 1 or more, below 2147483648"
    assert refusal(folder, job_with("search", given)) == sentence
    for key, most in (("batch", 65536), ("threads", 1024)):
        given = f"{key} = {most + 1}"
        sentence = f"devices[0].{given} is not allowed; allowed: an integer from 1 to {most}"
        assert refusal(folder, JOB + f"[[devices]]\n{given}") == sentence


def test_values_inside_lists_are_named_by_their_place(folder: Path) -> None:
    text = job_with("model", "input = { shape = [3, 0, 32] }")
    assert refusal(folder, text).startswith("model.input.shape[1] = 0 is not allowed; allowed: sizes of 1 or")


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_numbers_are_finite(folder: Path, number: str) -> None:
    for table, key in (("budget", "latency"), ("search", "lowest_keep"), ("finetune", "learning_rate")):
        assert "is not allowed; allowed: a" in refusal(folder, job_with(table, f"{key} = {number}"))


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("value", ["{}", "[{{ of = [{}] }}]"])
def test_arguments_that_no_store_can_keep_are_refused(folder: Path, number: str, value: str) -> None:
    sentence = refusal(folder, job_with("model", f"args = {{ most = {value.format(number)} }}"))
    assert sentence.startswith('model.args = {"most": ')
    assert sentence.endswith("not allowed; allowed: a table of keyword arguments, without nan and inf")


def test_a_reward_is_refused_where_no_controller_goes_by_it(folder: Path) -> None:
    assert refusal(folder, job_with("search", 'reward = "tradeoff"')) == (
        "search has reward, but only the controller \"amc\" has a choice of it, not 'auto'; remove it"
    )


def test_a_misspelt_choice_is_refused_with_the_nearest_one(folder: Path) -> None:
    assert refusal(folder, job_with("search", 'controller = "amcc"')) == (
        'search.controller = "amcc" is none of auto, amc, evolution, greedy, knapsack, nsga2, random, '
        "tpe, uniform; did you mean 'amc'?"
    )


def test_a_file_that_is_not_there_is_named_before_anything_starts(folder: Path) -> None:
    assert refusal(folder, job_with("model", 'checkpoint = "resnets.safetensors"')) == (
        "model.checkpoint = \"resnets.safetensors\" does not exist; did you mean 'resnet.safetensors'?"
    )
    assert refusal(folder, job_with("data", 'test = "data/test.parquet"')) == (
        f'data.test = "data/test.parquet" does not exist; there is no folder {folder / "data"}'
    )


def test_beside_a_file_that_is_not_there_a_folder_of_many_is_told_in_short(folder: Path) -> None:
    (folder / "data").mkdir()
    for number in range(20):
        (folder / "data" / f"{number:02}.npz").touch()
        (folder / "data" / f"{number:02}.png").touch()
    assert refusal(folder, job_with("data", 'test = "data/unlike_any.npz"')) == (
        f'data.test = "data/unlike_any.npz" does not exist; the folder {folder / "data"} has '
        "00.npz, 01.npz, 02.npz, 03.npz, 04.npz, 05.npz, 06.npz, 07.npz and 12 more"
    )


def test_a_file_that_is_not_toml_is_refused_with_the_place(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"job\.toml is not valid TOML: .*line 2"):
        load(folder, "[model]\nfactory = resnet\n")


@pytest.mark.parametrize("depth", [250, 2000, 100_000])
def test_lists_in_lists_without_end_are_refused(folder: Path, depth: int) -> None:
    """TOML's own reader gives up at one depth, the check of the keys at another."""
    for nested in (
        f"x = {'[' * depth}{']' * depth}",
        f"[{'x.' * depth}x]",
        f"{'x . ' * depth}x = 1",
        f"""{"'x'." * depth}"x" = 1""",
    ):
        sentence = refusal(folder, nested)
        assert sentence == "lists or tables lie in one another too deep to be a job; mend that first"


def test_dots_in_values_are_no_keys_and_a_file_of_megabytes_is_no_job(folder: Path) -> None:
    numbers = f"drops = [{', '.join(['0.5'] * 200)}]"
    assert "is an unknown key" in refusal(folder, job_with("search", numbers))
    with pytest.raises(RequestError, match=r"job\.toml has more than 1048576 bytes, as no job has"):
        load(folder, "#" * 2**20 + "\n")


def test_a_number_of_too_many_digits_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"job\.toml is not valid TOML: Exceeds the limit"):
        load(folder, f"x = {'1' * 5000}")


def test_a_file_name_that_no_system_takes_is_a_file_that_is_not_there(folder: Path) -> None:
    sentence = refusal(folder, job_with("data", f'test = "{"x" * 300}"'))
    assert "does not exist; did you mean" in sentence or "does not exist; the folder" in sentence


def test_a_job_file_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "job.toml").symlink_to("/proc/self/mem")
    with pytest.raises(RequestError, match=r"job\.toml cannot be read: Input/output error"):
        Job.load(folder / "job.toml")


def test_a_missing_job_file_or_a_folder_in_its_place_is_named(folder: Path) -> None:
    load(folder, JOB)
    with pytest.raises(RequestError, match=r"jobs\.toml does not exist; did you mean 'job\.toml'"):
        Job.load(folder / "jobs.toml")
    with pytest.raises(RequestError, match="is a folder; name the job file in it"):
        Job.load(folder)
