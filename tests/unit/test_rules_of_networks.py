# SPDX-License-Identifier: Apache-2.0
"""Every rule about the network is found on facts that break it, and cured by what it advises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from mountcr.model import Imported, Severity
from mountcr.network import Link, Peer
from mountcr.paths import KPath
from mountcr.planning.choices import Choices, Tcp
from mountcr.rules.table import table
from mountcr.stack import Stack
from networkfacts import ETH0, LO, NETWORK, POD, connection, meeting, networked, other
from unit.test_rules import Case, found, target

if TYPE_CHECKING:
    from mountcr.model import Facts
    from mountcr.target import Target

MACVLAN: Final = other(links=(LO, Link(name="eth0", index=7, kind="macvlan", up=True)))
UNSEEN: Final = other(links=(LO, msgspec.structs.replace(ETH0, peer=None)))
OPEN: Final = other(links=(LO, msgspec.structs.replace(ETH0, peer=Peer(name="v", index=9))))
CONNECTED: Final = other(sockets=(connection(),))
ALONE: Final = other(links=(LO,), addresses=(), routes=(), sockets=())
OF_HOST: Final = other(is_host=True, links=(), addresses=(), routes=())
RULED: Final = other(others=("the rule 100",))
TO_PEER: Final = "tcp 10.1.0.2:80 to 10.1.0.7:4711"
NONE: Final = Choices(net="none")
BUNDLE: Final = msgspec.structs.replace(
    networked(),
    imported=Imported(at=KPath("/b"), stack=Stack(driver="vfs", lowers=(KPath("/l"),))),
)


def there(**fields: object) -> Target:
    """A host of a restore, sound but for what its network is."""
    return meeting(target(), **fields)


CASES: Final = (
    Case("I1", TO_PEER, networked(CONNECTED)),
    Case("I2", "tcp 10.1.0.2:80", networked(criu="4.1.1", kernel="6.16.1")),
    Case("I3", "eth0", networked(MACVLAN), there()),
    Case("I4", "eth0", networked(), there(links={"lo": "loopback"})),
    Case("I4", "eth0", networked(), there(links={"br0": "veth"})),
    Case("I4", "eth0", networked(), there(), Choices(bridges={"br0": "br1"})),
    Case("I4", "eth0", networked(UNSEEN), there()),
    Case("I4", "eth0", BUNDLE, there()),
    Case("I4", "eth0", msgspec.structs.replace(BUNDLE, network=OPEN), there()),
    Case("I4", "eth0", BUNDLE, there(), Choices(bridges={"br9": "lan"})),
    Case("I5", "eth0", networked(), there(links={"br0": "bridge", "veth12": "veth"})),
    Case("I6", "/nowhere", networked(), there(paths={"/nowhere": 0}), Choices(net="/nowhere")),
    Case("I7", "net:[4026532500]", networked(ALONE), there(), Choices(net="host")),
    Case("I7", "net:[4026532500]", networked(ALONE), there(), Choices(net=POD)),
    Case("I8", "tcp 10.1.0.2:80", networked(), there(), NONE),
    Case("I8", "tcp 10.1.0.2:80", networked(OF_HOST), there(addresses=("10.9.9.9",))),
    Case("I9", "the rule 100", networked(RULED)),
    Case("I9", "the rule 100", networked(RULED), there()),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.where}")
def test_a_rule_is_found_where_it_is_broken(case: Case) -> None:
    """With what it means, and nothing cures it; a refusal refuses the plan."""
    rule = table()[case.rule]
    plan = case.plan()
    (finding,) = found(plan, case.rule)
    assert (finding.mount, finding.cured) == (case.where, False)
    assert finding.severity is rule.severity
    assert finding.message.endswith(f": {rule.sentence}")
    refused = [each.rule for each in plan.refusals]
    assert refused == ([case.rule] if rule.severity is Severity.REFUSAL else [])


SOUND: Final[dict[str, tuple[Facts, Target | None, Choices]]] = {
    "a server": (networked(), None, Choices()),
    "a server that comes back": (networked(), there(), Choices()),
    "a pod that is there": (networked(pod=True), there(paths={POD: 5}), Choices()),
    "a pod that is gone": (networked(pod=True), there(), Choices()),
    "a link of a pod that is there": (
        networked(MACVLAN, pod=True), there(paths={POD: 5}), Choices()),
    "an older kernel": (networked(criu="4.1.1", kernel="6.15.9"), None, Choices()),
    "no socket": (networked(other(sockets=()), criu="4.1.1"), None, Choices()),
    "a connection that is kept": (networked(CONNECTED), None, Choices(tcp=Tcp.ESTABLISHED)),
    "a connection that is closed": (networked(CONNECTED), None, Choices(tcp=Tcp.CLOSE)),
    "a connection, as CRIU is told": (
        networked(CONNECTED), None, Choices(extra=("--tcp-established",))),
    "a connection that nothing is left of": (
        networked(CONNECTED), there(), Choices(net="none", tcp=Tcp.CLOSE)),
    "another link, elsewhere": (networked(other(links=MACVLAN.links, sockets=())), there(), NONE),
    "another bridge": (
        networked(), there(links={"lan": "bridge"}), Choices(bridges={"br0": "lan"})),
    "the bridge that a bundle asks for": (BUNDLE, there(), Choices(bridges={"": "br0"})),
    "a bridge instead of a link to the host": (
        msgspec.structs.replace(BUNDLE, network=OPEN), there(), Choices(bridges={"": "br0"})),
    "a link to the host, on which it was": (networked(OPEN), there(), Choices()),
    "another one than a bundle asks for": (
        BUNDLE, there(links={"lan": "bridge"}), Choices(bridges={"br0": "lan"})),
    "any bridge": (networked(UNSEEN), there(), Choices(bridges={"": "br0"})),
    "loopback only": (networked(ALONE), there(), NONE),
    "the host's": (networked(OF_HOST), there(addresses=("10.1.0.2",)), Choices(net="host")),
    "an address that is there": (
        networked(), there(paths={POD: 5}, addresses=("10.1.0.2",)), Choices(net=POD)),
    "facts of an earlier version": (networked(None), there(), NONE),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_breaks_no_rule(name: str) -> None:
    """What CRIU can do, or what is chosen so that it can, is not refused."""
    facts, host, choices = SOUND[name]
    plan = Case("", "", facts, host, choices).plan()
    assert [each for each in plan.findings if each.rule.startswith("I") and not each.cured] == []


def test_another_link_is_a_loss_of_a_dump() -> None:
    """At the dump nobody knows which network the restore will have."""
    (finding,) = found(Case("I3", "", networked(MACVLAN)).plan(), "I3")
    assert (finding.mount, finding.severity) == ("eth0", Severity.LOSS)
    assert "a macvlan" in finding.message


def test_an_address_of_version_4_in_version_6() -> None:
    """A socket of version 6 that serves version 4 has the address that the link has."""
    mapped = msgspec.structs.replace(NETWORK.sockets[0], protocol="tcp6", address="::ffff:10.1.0.2")
    facts = networked(other(sockets=(mapped,)))
    assert found(Case("I8", "", facts, there()).plan(), "I8") == []
    (finding,) = found(Case("I8", "", facts, there(), NONE).plan(), "I8")
    assert finding.mount == "tcp6 [::ffff:10.1.0.2]:80"


def test_a_path_that_nobody_looked_at() -> None:
    """Without a look at the host the namespace of a pod is taken to be there."""
    plan = Case("I6", "", networked(pod=True), target(), Choices(net=KPath("/x"))).plan()
    assert found(plan, "I6") == []
