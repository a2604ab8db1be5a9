"""The console command `frugal`: what takes options. What does not is a target of the workflow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from frugal import __version__
from frugal.errors import FrugalError
from frugal.files import os_sentence

if TYPE_CHECKING:
    from frugal.config import Config
    from frugal.doctor import Check


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. What a person can mend ends in one sentence on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.call(arguments)
    except FrugalError as problem:
        print(f"frugal: {problem}", file=sys.stderr)
    except OSError as problem:
        print(f"frugal: {os_sentence(problem)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frugal", description="Tools beside the workflow (snakemake --cores all figures)."
    )
    parser.add_argument("--version", action="version", version=f"frugal {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = commands.add_parser(
        "image-to-bin",
        help="convert photographs to a .bin that networks read",
        description="Convert PNG and JPEG images, or folders of them, to one float32 NCHW file with a manifest.",
    )
    convert.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    convert.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.bin", help="the file to write")
    convert.add_argument(
        "--preprocess",
        choices=["torchvision", "keras_caffe", "none"],
        default="torchvision",
        help="what the network's weights expect (default: %(default)s)",
    )
    convert.add_argument("--size", type=int, default=224, help="height and width in pixels (default: %(default)s)")
    convert.add_argument(
        "--resize", type=int, default=None, help="shorter side before the crop (default: size · 256/224)"
    )
    convert.add_argument(
        "--fit", choices=["crop", "pad"], default="crop", help="centre crop, or pad (default: %(default)s)"
    )
    convert.add_argument("--limit", type=int, default=None, metavar="N", help="take the first N images only")
    convert.set_defaults(call=_image_to_bin)

    refresh = commands.add_parser(
        "refresh",
        help="mend what is no longer true of this machine",
        description="Rewrite results/device/local.json where the machine has changed, and data/availability.json where "
        "published files can be had that could not, so that the next run does again what depends on them.",
    )
    refresh.add_argument("--configfile", type=Path, default=Path("config.yaml"), help="default: %(default)s")
    refresh.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    refresh.set_defaults(call=_refresh)

    migrate = commands.add_parser(
        "migrate",
        help="rewrite tables of an older frugal with today's columns",
        description="Rewrite Parquet files of an older minor schema version at today's: columns that were added since "
        "are null. All are looked at before the first is rewritten. frugal itself reads them as they are.",
    )
    migrate.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder of them")
    migrate.set_defaults(call=_migrate)

    compare = commands.add_parser(
        "compare",
        help="measure two commits side by side",
        description="Measure two commits of this repository in alternating sessions, each by its own workflow, and "
        "judge HEAD against BASE. The exit status is 0, 1 where something of ours became slower or broke, and 2 where "
        "nothing could be compared. What is finished is kept: the same command goes on.",
    )
    compare.add_argument("base", metavar="BASE", help="a branch, tag or hash: what to compare with")
    compare.add_argument("head", metavar="HEAD", help="what to judge, such as HEAD")
    compare.add_argument("--preset", choices=["smoke", "quick", "sweep", "headline"], default="quick",
                         help="how much is measured (default: %(default)s)")  # fmt: skip
    compare.add_argument("--sessions", type=int, metavar="N", help="sessions of each commit (default: the preset's)")
    compare.add_argument("--experiment", default="cusnn/layers", metavar="SYSTEM/NAME", help="default: %(default)s")
    compare.add_argument("--configfile", type=Path, default=None, metavar="FILE", help="default: config.yaml")
    compare.add_argument("--config", action="append", default=[], metavar="KEY=VALUE",
                         help="a key, such as cusnn.networks=[resnet50]; may be repeated")  # fmt: skip
    compare.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    compare.add_argument("--cores", default="all", help="cores that each workflow may use (default: %(default)s)")
    compare.add_argument("--keep", action="store_true", help="keep the two worktrees")
    compare.set_defaults(call=_compare)

    plan = commands.add_parser(
        "plan",
        help="say what a campaign will take, before anything runs",
        description="Jobs, minutes, disk, memory and the expected width of intervals, learned from the last campaign "
        "here or from a recorded one. No GPU is touched and nothing is written.",
    )
    plan.add_argument("--configfile", type=Path, default=None, metavar="FILE", help="default: config.yaml")
    plan.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(call=_plan)

    doctor = commands.add_parser(
        "doctor",
        help="look at what a campaign needs of this machine",
        description="One line for each thing that a campaign needs, and what to type to mend it. The exit status is 1 "
        "where something fails.",
    )
    doctor.add_argument("--configfile", type=Path, default=None, metavar="FILE", help="default: config.yaml")
    doctor.add_argument(
        "--calibrate", action="store_true", help="measure for about a minute what the method costs here"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(call=_doctor)
    return parser


def _image_to_bin(arguments: argparse.Namespace) -> int:
    from frugal.data.image_to_bin import image_to_bin

    report = image_to_bin(
        arguments.images,
        arguments.out,
        size=arguments.size,
        resize=arguments.resize,
        preprocess=arguments.preprocess,
        fit=arguments.fit,
        limit=arguments.limit,
    )
    for outcome in report.outcomes:
        print(f"{outcome.path}: {outcome.outcome}" + (f" ({outcome.reason})" if outcome.reason else ""))
    return report.exit_status


def _refresh(arguments: argparse.Namespace) -> int:
    from frugal import refresh

    for line in refresh.stale(arguments.configfile, arguments.results, Path("data")):
        print(line)
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from frugal import records

    files = records.migrate(arguments.paths)
    for file in files:
        if file.rewritten:
            print(f"{file.path}: {file.found} -> {records.SCHEMA_VERSION}")
    rewritten = sum(file.rewritten for file in files)
    print(f"{rewritten} of {len(files)} files rewritten at schema version {records.SCHEMA_VERSION}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from frugal import commits

    try:
        found = commits.compare(
            arguments.base,
            arguments.head,
            preset=arguments.preset,
            count=arguments.sessions,
            experiment=arguments.experiment,
            configfile=arguments.configfile,
            overrides=arguments.config,
            results=arguments.results,
            cores=arguments.cores,
            keep=arguments.keep,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        written = commits.write(found)
    except FrugalError as problem:
        print(f"frugal: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"frugal: {os_sentence(problem)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("frugal: stopped; what is finished is kept, and the same command goes on", file=sys.stderr)
        return 130
    print(f"{commits.text(found)}\n\n{written}")
    return commits.exit_status(found)


def _plan(arguments: argparse.Namespace) -> int:
    from frugal import config, plan

    planned = plan.plan(config.read(arguments.configfile), results=arguments.results)
    print(plan.json_text(planned).rstrip() if arguments.json else plan.text(planned))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from frugal import config, doctor, plan

    cfg = config.read(arguments.configfile)
    checks = doctor.doctor(cfg, need=plan.need(plan.plan(cfg)))
    if arguments.calibrate and not doctor.exit_status(checks):
        checks += _calibration(cfg)
    print(doctor.json_text(checks) if arguments.json else doctor.text(checks))
    return doctor.exit_status(checks)


def _calibration(cfg: Config) -> list[Check]:
    from frugal import doctor, provenance, timing

    record = provenance.device_record(doctor.local_kind(cfg))
    print("measuring for about a minute: leave the machine alone", file=sys.stderr)
    return doctor.calibrate(timing.device_of(record), record["gpu_name"], say=partial(print, file=sys.stderr))
