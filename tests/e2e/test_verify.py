# SPDX-License-Identifier: Apache-2.0
"""What was dumped can be compared with what lies there now, path by path."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from e2e.conftest import Place


def sleeper(place: Place) -> int:
    """Start a container with a file in its writable layer that holds one of a lower layer open."""
    place.mount_overlay()
    place.write(place.root / "srv/data", "seven b")
    pid = place.start("/bin/sleeper")
    place.wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return pid


def found(place: Place, images: Path, *words: str) -> list[tuple[str, str]]:
    """What verify finds; its status says whether that is something."""
    finished = place.mountcr("verify", images, "--json", *words)
    document = finished.document
    assert document["schema"] == "mountcr/verify/1"
    assert finished.status == (5 if document["differences"] else 0), finished
    return [(each["path"], each["what"]) for each in document["differences"]]


def test_what_changed_behind_its_back_is_named(place: Place) -> None:
    """Every difference at once: in the writable layer, in a lower one, of a file that is open."""
    images = place.dump(sleeper(place))
    assert stat.S_IMODE((images / "fingerprint.json").stat().st_mode) == 0o600
    assert found(place, images) == []
    assert place.mountcr("verify", images) == (0, "", "")
    (place.upper / "srv/data").write_text("five!")
    os.utime(place.upper / "srv/data", ns=(1, 1))
    (place.layers[2] / "etc/lines").write_text("other\n")
    differences = dict(found(place, images))
    assert differences.keys() >= {"/srv/data", "/etc/lines"}
    assert differences["/etc/lines"].startswith("R8: ")
    text = place.mountcr("verify", images)
    assert text.status == 5
    assert "/srv/data: size 5, it had 7" in text.out.splitlines()
    assert text.err == ""


def test_what_did_not_change_is_the_same_and_comes_back(place: Place) -> None:
    """Verify changes nothing, neither files nor mounts."""
    images = place.dump(sleeper(place))
    before = place.table()
    assert found(place, images) == []
    assert place.table() == before
    place.kill(place.restore(images))


def test_content_of_the_same_size_and_time(place: Place) -> None:
    """It is seen unless contents are not to be compared."""
    images = place.dump(sleeper(place))
    path = place.upper / "srv/data"
    was = path.stat()
    with path.open("r+") as file:
        file.write("SEVEN")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert found(place, images, "--quick") == []
    assert found(place, images) == [("/srv/data", "content")]


def test_all_layers_were_read(place: Place) -> None:
    """Then a lower layer that changed anywhere is named, also where nobody has it open."""
    images = place.top / "images"
    place.done("dump", sleeper(place), "--images", images, "--fingerprint", "all")
    place.unmount()
    assert found(place, images) == []
    (place.layers[1] / "etc/motd").write_text("from the muddle\n")
    ((path, what),) = found(place, images)
    assert path == str(place.layers[1])
    assert what.startswith("layer 3 of 4 changed: digest ")


def test_tasks_that_run_on(place: Place) -> None:
    """What they change after the dump is found; the time to read it was part of the frozen one."""
    place.mount_overlay()
    pid = place.start()
    place.wait(lambda: place.count() > 0)
    document = place.done("dump", pid, "--images", place.top / "images", "--leave-running")
    assert document["fingerprint"] == str(place.top / "images/fingerprint.json")
    seconds = document["seconds"]
    assert 0 < seconds["fingerprint"] < seconds["frozen"]
    count = place.count()
    place.wait(lambda: place.count() > count)
    place.kill(pid)
    place.unmount()
    assert any(path == "/var/count" for path, _ in found(place, place.top / "images"))


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_fingerprint(place: Place, *, asked: bool) -> None:
    """It is said that there is none, and what can be is checked all the same."""
    if asked:
        images = place.dump(sleeper(place), "images", "--fingerprint", "none")
    else:
        images = place.dump(sleeper(place))
        (images / "fingerprint.json").unlink()
    said = place.mountcr("verify", images)
    assert (said.status, said.out) == (0, "")
    assert said.err.startswith(f"note: {images} has no fingerprint")
    (place.layers[2] / "etc/lines").unlink()
    ((path, what),) = found(place, images)
    assert path == "/etc/lines"
    assert what.startswith("M7: ")


def test_a_layer_that_is_gone(place: Place) -> None:
    """It is named once, and the others are not compared with what does not show any more."""
    images = place.dump(sleeper(place))
    shutil.rmtree(place.layers[1])
    ((path, what),) = found(place, images)
    assert path == str(place.layers[1])
    assert what == "layer 3 of 4 is gone"


def test_bad_input(place: Place, tmp_path: Path) -> None:
    """One line, a hint, and the status that it has everywhere."""
    images = place.dump(sleeper(place))
    (tmp_path / "empty").mkdir()
    said = place.mountcr("verify", tmp_path / "nowhere")
    assert (said.status, said.out, len(said.err.splitlines())) == (3, "", 2)
    said = place.mountcr("verify", tmp_path / "empty")
    assert (said.status, said.out, len(said.err.splitlines())) == (2, "", 2)
    document = json.loads((images / "fingerprint.json").read_text())
    (images / "fingerprint.json").write_text(json.dumps({**document, "layers": 7}))
    said = place.mountcr("verify", images)
    assert (said.status, said.out, len(said.err.splitlines())) == (2, "", 2)
    assert "fingerprint.json is damaged" in said.err
