# SPDX-License-Identifier: Apache-2.0
"""`mountcr plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.cli.inputs import absolute, choices_of, facts_of, is_images
from mountcr.cli.output import print_document, print_outline
from mountcr.planning.planner import make_plan
from mountcr.render.plan import outline_plan

if TYPE_CHECKING:
    import argparse

    from mountcr.planning.records import Plan

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 4 when it is refused."""
    plan = _plan(arguments)
    if arguments.json:
        print_document(plan)
    else:
        print_outline(outline_plan(plan, explain=arguments.explain))
    return 4 if plan.refusals else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    choices = choices_of(arguments)
    if arguments.purpose == "restore" and is_images(arguments.reference):
        from mountcr.operations.restore import plan_restore

        return plan_restore(absolute(arguments.reference), choices)[1]
    return make_plan(facts_of(arguments), choices)
