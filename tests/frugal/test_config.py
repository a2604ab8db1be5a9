"""The configuration: what is accepted, what a wrong one is told, and that all that is generated from it is in step."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal import config
from frugal.config import ConfigError
from frugal.config.errors import root_schema
from frugal.errors import FrugalError
from frugal.preprocess import preprocess

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "config.yaml"
SCHEMA = REPOSITORY / "workflow" / "schemas" / "config.schema.json"
REFRESH = "run `python -m frugal.config --write` in the repository"


def refused(mapping):
    """The lines of the error that a configuration gets."""
    with pytest.raises(ConfigError) as caught:
        config.load(mapping)
    return str(caught.value).splitlines()


# ---- generated files -------------------------------------------------------------------------------------------------


def test_committed_files_are_what_the_models_generate():
    assert COMMITTED.read_text(encoding="utf-8") == config.yaml_text(), REFRESH
    assert SCHEMA.read_text(encoding="utf-8") == config.json_schema(), REFRESH


def test_committed_file_holds_every_default():
    assert config.load(yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))) == config.load({})


def test_committed_file_fits_the_committed_schema():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(COMMITTED.read_text(encoding="utf-8")), schema)


def test_first_line_names_a_schema_that_is_there():
    first = COMMITTED.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (REPOSITORY / first.removeprefix(prefix)).is_file()


def every_key(schema, prefix=""):
    for key, field in schema["properties"].items():
        yield prefix + key, field
        label = field.get("additionalProperties") or {}
        for inner in (field, label if isinstance(label, dict) else {}):
            if "properties" in inner:
                yield from every_key(inner, f"{prefix}{key}.")


@pytest.mark.parametrize(
    ("path", "field"), list(every_key(root_schema())), ids=lambda value: value if type(value) is str else ""
)
def test_every_key_has_a_docstring_and_an_example(path, field):
    assert field.get("description", "").strip().endswith((".", "…")), path
    assert field.get("examples"), path


def test_every_example_is_allowed():
    def build(path, value):
        for key in reversed(path.split(".")):
            value = {key: value}
        return value

    for path, field in every_key(root_schema()):
        if path == "mirror":
            continue  # a URL of an example domain: allowed, and tested below
        path = path.replace("devices.", "devices.local.")
        config.load({"preset": "quick"} | build(path, field["examples"][0]))


def test_every_key_stands_in_the_table():
    table = config.markdown_table()
    for path, field in every_key(root_schema()):
        if "properties" not in field:
            assert f"| `{path.replace('devices.', 'devices.<label>.')}` |" in table


def test_module_prints_and_writes(tmp_path):
    command = [sys.executable, "-m", "frugal.config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert printed == config.yaml_text()
    subprocess.run([*command, "--write"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == config.yaml_text()
    assert (tmp_path / "workflow/schemas/config.schema.json").read_text(encoding="utf-8") == config.json_schema()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "workflow"]


def test_import_is_light():
    heavy = ["torch", "numba", "pandas", "matplotlib", "pyarrow", "numpy"]
    code = f"import frugal.config, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ---- what is accepted ------------------------------------------------------------------------------------------------


def test_empty_configuration_is_the_default_campaign():
    cfg = config.load({})
    assert cfg.preset == "smoke"
    assert cfg.recorded == ["nvidia-h200"]
    assert list(cfg.devices) == ["local"]
    assert cfg.kernels.capabilities == ["7.5", "8.0", "8.9", "9.0"]
    assert cfg.cusnn.networks == ["densenet169", "resnet50"]
    assert cfg.cusnn.batch_sizes is None
    assert config.batch_sizes(cfg) == [1, 2]


def test_whole_numbers_are_numbers():
    assert config.load({"timing": {"block_max_s": 2}}).timing.block_max_s == 2.0


def test_path_variables_are_left_to_snakemake():
    assert config.load({"pathvars": {"results": "elsewhere"}}).preset == "smoke"


@pytest.mark.parametrize("mirror", ["https://example.org/files", "http://localhost:8000"])
def test_mirror_may_be_a_url(mirror):
    assert config.load({"mirror": mirror}).mirror == mirror


def test_mirror_may_be_a_folder(tmp_path):
    assert config.load({"mirror": str(tmp_path)}).mirror == str(tmp_path)


def test_images_need_not_exist_yet():
    assert config.load({"data": {"images": "not/yet/there"}}).data.images == "not/yet/there"


def test_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        config.load({}).preset = "quick"


# ---- what a wrong one is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        (
            {"cusnn": {"batch_sizes": [0]}},
            "config: cusnn.batch_sizes = [0]: each batch size must be an integer >= 1, for example [1, 8]",
        ),
        (
            {"preset": "fast"},
            "config: preset = fast: must be one of smoke, quick, sweep, headline, for example quick",
        ),
        (
            {"timing": {"rounds": 3}},
            "config: timing.rounds = 3: rounds must be even: a palindrome has two, for example 2",
        ),
        (
            {"timing": {"seed": 1.5}},
            "config: timing.seed = 1.5: must be an integer >= 0 and <= 4294967295, for example 1",
        ),
        ({"data": {"n_images": True}}, "config: data.n_images = true: must be an integer >= 1, for example 32"),
        ({"data": {"n_images": "32"}}, "config: data.n_images = 32: must be an integer >= 1, for example 32"),
        (
            {"data": {"images": ""}},
            'config: data.images = "": must be text that is not empty, or null, for example photographs/',
        ),
        (
            {"timing": {"margin_kernel": 1}},
            "config: timing.margin_kernel = 1: must be a number > 0 and < 1, for example 0.01",
        ),
        (
            {"cusnn": {"regimes": []}},
            "config: cusnn.regimes = []: must be a list out of cold, hot, graph, graph_rotated, wall, or null, "
            'and not be empty, for example ["graph"]',
        ),
        (
            {"cusnn": {"batch_sizes": [1, 8, 1]}},
            "config: cusnn.batch_sizes = [1, 8, 1]: 1 stands there more than once: name each value once, "
            "for example [1, 8]",
        ),
        (
            {"mirror": "ftp://example.org"},
            "config: mirror = ftp://example.org: it is neither a folder that exists nor an http(s) URL, "
            "for example https://example.org/mirror",
        ),
        (
            {"devices": {"x": {"kin": "cpu"}}},
            "config: devices.x.kin: there is no such key; did you mean kind? Allowed: kind",
        ),
        (
            {"cusnn": {"zzz": 1}},
            "config: cusnn.zzz: there is no such key; Allowed: networks, definition, weights, batch_sizes, "
            "experiments, layers, kernel_sizes, sparsities, ours, baselines, regimes, deterministic, policy, "
            "variants, seed",
        ),
        (
            {"container": None},
            'config: container = null: must be a mapping with keys out of image, for example {"image": null}',
        ),
        (
            {"preset": "a\nb"},
            'config: preset = "a\\nb": must be one of smoke, quick, sweep, headline, for example quick',
        ),
        (
            {"a\nb": 1},
            'config: "a\\nb": there is no such key; Allowed: preset, systems, mirror, offline, recorded, devices, '
            "container, timing, data, kernels, cusnn, sft, dtr, method, pathvars",
        ),
        ({4: 1}, "config: 4: a key must be text: put it in quotes, or mend its name"),
        ({"devices": {4: {}}}, "config: 4: a key must be text: put it in quotes, or mend its name"),
    ],
    ids=lambda value: json.dumps(value, default=str)[:40] if isinstance(value, dict) else "",
)
def test_one_problem_is_one_line(mapping, line):
    assert refused(mapping) == [line]


@pytest.mark.parametrize("preset", ["smoke", "quick"])
@pytest.mark.parametrize("label", ["A100", "a-b", "", "ä"])
def test_labels_are_names_of_files(label, preset):
    (line,) = refused({"preset": preset, "devices": {label: {}}})
    assert line.startswith("config: devices = ")
    assert "lower-case letters, digits and _" in line


def test_numbers_as_capabilities_are_told_to_be_quoted():
    (line,) = refused({"kernels": {"capabilities": [9.0]}})
    assert "each capability must be one of 7.5, 8.0" in line
    assert line.endswith('for example ["8.0", "9.0"]')


def test_all_problems_are_told_at_once():
    lines = refused({"cusn": {}, "preset": "fast", "timing": {"rounds": 3, "n_min": 0}, "cusnn": {"networks": ["vgg"]}})
    keys = [line.split(" = ")[0].split(": ")[1] for line in lines]
    assert keys == ["preset", "timing.rounds", "timing.n_min", "cusnn.networks", "cusn"]
    assert "did you mean cusnn?" in lines[-1]


def test_a_long_value_is_cut():
    (line,) = refused({"cusnn": {"batch_sizes": [0] * 1000}})
    assert len(line) < 250
    assert "…" in line


@pytest.mark.parametrize("given_value", [None, [], "preset: quick", 3])
def test_what_is_no_mapping_is_told_so(given_value):
    (line,) = refused(given_value)
    assert "must be a mapping" in line


@pytest.mark.parametrize(
    ("mapping", "key", "advice"),
    [
        ({"cusnn": {"weights": "a/b.safetensors"}}, "cusnn.weights", "one file fits one network"),
        ({"timing": {"block_min_s": 2, "block_max_s": 1}}, "timing.block_min_s", "must not exceed timing.block_max_s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_contradict_each_other(mapping, key, advice):
    (line,) = refused(mapping)
    assert line.startswith(f"config: {key} = ")
    assert advice in line


def test_contradictions_are_told_together():
    assert len(refused({"cusnn": {"weights": "x.pth"}, "timing": {"block_min_s": 2, "block_max_s": 1}})) == 2


@pytest.mark.parametrize(
    "mapping",
    [
        {"cusnn": {"definition": "keras_v1", "networks": ["resnet50", "densenet169"]}},
        {"cusnn": {"weights": "a/b.safetensors", "networks": ["resnet50"]}},
        {"timing": {"block_min_s": 1, "block_max_s": 1}},
    ],
)
def test_keys_that_look_alike_and_agree(mapping):
    config.load(mapping)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([path for path, _ in every_key(root_schema()) if not path.startswith("devices.")])


@settings(deadline=None)
@given(path=keys, value=junk)
def test_no_value_ends_in_a_traceback(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    message = "config: "
    try:
        config.load(value)
    except FrugalError as problem:
        message = str(problem)
    assert all(line.startswith("config: ") for line in message.splitlines())


# ---- what a configuration asks for -----------------------------------------------------------------------------------


def test_expansion_multiplies_experiments_networks_and_batches():
    asked = {"networks": ["resnet50", "densenet169"], "batch_sizes": [1, 8], "layers": "all"}
    cfg = config.load({"cusnn": asked | {"experiments": ["sparsity", "layers", "networks", "break_even"]}})
    cases = config.expand(cfg)
    assert [(case.network, case.experiment, case.batch) for case in cases] == [
        ("resnet50", "sparsity", 1),
        ("resnet50", "layers", 1),
        ("resnet50", "layers", 8),
        ("resnet50", "networks", 1),
        ("resnet50", "networks", 8),
        ("densenet169", "sparsity", 1),
        ("densenet169", "layers", 1),
        ("densenet169", "layers", 8),
        ("densenet169", "networks", 1),
        ("densenet169", "networks", 8),
        (None, "break_even", 1),
        (None, "break_even", 8),
    ]
    assert {case.layer_selection for case in cases if case.experiment == "layers"} == {"all"}
    assert {case.baselines for case in cases if case.experiment == "layers"} == {tuple(cfg.cusnn.baselines)}
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize(
    ("preset", "batches", "shares"), [("smoke", [1, 2], 3), ("quick", [1, 8], 5), ("sweep", [1, 8], 9)]
)
def test_a_null_of_cusnn_stands_for_the_presets_numbers(preset, batches, shares):
    cfg = config.load({"preset": preset})
    assert config.batch_sizes(cfg) == batches
    assert len(config.sparsities(cfg)) == shares
    section = config.cusnn(cfg)
    assert (section["preset"], section["batch_sizes"]) == (preset, batches)
    assert section["sparsities"] == config.sparsities(cfg) == sorted(section["sparsities"])
    assert set(section) == {"preset", *type(cfg.cusnn).model_fields}


def test_what_is_given_stands():
    cfg = config.load({"cusnn": {"batch_sizes": [4], "sparsities": [0.9, 0.1]}})
    section = config.cusnn(cfg)
    assert (section["batch_sizes"], section["sparsities"]) == ([4], [0.1, 0.9])


def test_only_the_ladder_needs_no_network():
    two = {"networks": ["resnet50", "densenet169"]}
    assert config.networks(config.load({"cusnn": two})) == ["densenet169", "resnet50"]
    assert config.networks(config.load({"cusnn": two | {"experiments": ["ladder", "break_even"]}})) == [
        "densenet169",
        "resnet50",
    ]
    assert config.networks(config.load({"cusnn": two | {"experiments": ["ladder"]}})) == []
    assert config.networks(config.load({"systems": ["method"], "cusnn": two})) == []


@pytest.mark.parametrize(
    ("of_system", "of_all", "regimes"),
    [(None, None, None), (None, ["hot"], ("hot",)), (["graph"], ["hot"], ("graph",))],
)
def test_a_systems_regimes_come_before_those_of_all(of_system, of_all, regimes):
    cases = config.expand(config.load({"cusnn": {"regimes": of_system}, "timing": {"regimes": of_all}}))
    assert {case.regimes for case in cases if case.experiment == "layers"} == {regimes}


def test_numbers_that_stand_twice_agree_with_the_timing_package():
    design = pytest.importorskip("frugal.timing.design")
    regimes = root_schema()["properties"]["timing"]["properties"]["regimes"]["anyOf"][0]["items"]["enum"]
    assert tuple(regimes) == design.REGIMES
    for preset, plan in design.PRESETS.items():
        assert config.sessions(config.load({"preset": preset})) == plan.sessions
    assert config.sessions(config.load({"timing": {"sessions": 7}})) == 7


@pytest.mark.parametrize(
    ("network", "definition", "wanted"),
    [
        ("resnet50", "keras_v1", "keras_caffe"),
        ("resnet50", "torchvision_v1.5", "torchvision"),
        ("densenet169", "keras_v1", "torchvision"),
        ("densenet169", "torchvision_v1.5", "torchvision"),
    ],
)
def test_preprocessing_belongs_to_the_weights(network, definition, wanted):
    assert preprocess(network, definition) == wanted


# ---- what is published -----------------------------------------------------------------------------------------------


def test_record_is_canonical_and_names_no_place(tmp_path):
    from frugal.records import canonical_json

    cfg = config.load(
        {
            "mirror": str(tmp_path),
            "data": {"images": str(tmp_path / "photographs")},
            "cusnn": {"weights": str(tmp_path / "mine.pth"), "networks": ["resnet50"]},
            "container": {"image": "docker://registry.example.org/team/frugal:1"},
        }
    )
    record = config.record_json(cfg)
    assert record == canonical_json(json.loads(record))
    assert str(tmp_path) not in record
    assert "example.org" not in record
    values = json.loads(record)
    assert values["mirror"] == "folder"
    assert values["data"]["images"] == "photographs"
    assert values["cusnn"]["weights"] == "mine.pth"
    assert values["container"]["image"] == "frugal:1"


def test_record_tells_configurations_apart():
    assert config.record_json(config.load({})) == config.record_json(config.load({"preset": "smoke"}))
    assert config.record_json(config.load({})) != config.record_json(config.load({"timing": {"seed": 2}}))
