# SPDX-License-Identifier: Apache-2.0
"""`mountcr plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import is_archive
from mountcr.cli.inputs import (
    absolute,
    archive_choices,
    check_of,
    choices_of,
    facts_of,
    is_images,
    roots_of,
    without_driver,
)
from mountcr.cli.output import note, print_document, print_outline, print_text, talk
from mountcr.criu import dialects
from mountcr.criu.dialects import Dialect
from mountcr.criu.options import Kind
from mountcr.errors import UsageError
from mountcr.operations.refusal import refuse
from mountcr.planning.planner import make_plan
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    import argparse

    from mountcr.planning.records import Plan

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the plan, or one command of it in another dialect; 4 when it is refused."""
    if arguments.dialect and (arguments.json or arguments.explain):
        other = "--json" if arguments.json else "--explain"
        msg = f"--as {arguments.dialect} and {other} exclude each other"
        raise UsageError(msg, hint="`plan --json` holds the options too, in `criu`")
    plan = _plan(arguments)
    kind = Kind(arguments.purpose)
    if arguments.dialect:
        refuse(plan, f"the {kind}")
        _print_as(Dialect(arguments.dialect), plan, kind)
        return 0
    if arguments.json:
        print_document(plan)
    else:
        print_outline(outline_plan(plan, explain=arguments.explain, purpose=kind))
    return 4 if plan.refusals else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    choices = choices_of(arguments)
    if arguments.purpose == "restore" and is_archive(arguments.reference):
        from mountcr.operations.foreign_import import as_bundle
        from mountcr.operations.importing import plan_bundle

        roots = roots_of(arguments)
        with as_bundle(arguments.reference, roots=roots, tell=note) as bundle:
            return plan_bundle(
                bundle,
                archive_choices(arguments),
                without_driver(choices),
                roots=roots,
                check=check_of(arguments),
            )
    if arguments.purpose == "restore" and is_images(arguments.reference):
        from mountcr.operations.restore import plan_restore

        return plan_restore(absolute(arguments.reference), choices)[1]
    return make_plan(facts_of(arguments), choices)


def _print_as(dialect: Dialect, plan: Plan, kind: Kind) -> None:
    """Print what CRIU is told in a dialect, and nothing else."""
    dump = kind is Kind.DUMP
    options = plan.criu.dump_options if dump else plan.criu.restore_options
    match dialect:
        case Dialect.ARGV:
            text = dialects.shell_line(plan.criu.dump if dump else plan.criu.restore) + "\n"
        case Dialect.LEGACY:
            text = dialects.shell_line(dialects.legacy_argv(options)) + "\n"
            if since := dialects.legacy_since(options):
                talk(f"{since[0]} needs CRIU {since[1]} or newer")
        case Dialect.CONF:
            asked = plan.choices.cgroups is not None
            text = dialects.configuration(options, cgroups=asked)
        case Dialect.RPC_JSON:
            text = dialects.rpc_json(options)
    print_text(text)
