# SPDX-License-Identifier: Apache-2.0
"""A bundle as an outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mountcr.bundle.names import IMAGES, LAYERS, MOUNTS, UPPER
from mountcr.render.containers import size_in_units
from mountcr.render.outline import Outline
from mountcr.render.text import printable

if TYPE_CHECKING:
    from mountcr.bundle.document import Bundle, BundleLayer
    from mountcr.planning.records import External

__all__ = ["outline_bundle"]


def outline_bundle(bundle: Bundle, digest: str, *, signed: bool) -> Outline:
    """Give what a bundle holds in lines, by its document."""
    container = bundle.dump.facts.container
    name = f" ({container.name})" if container.name and container.name != container.id else ""
    top = Outline(printable(f"bundle of {container.engine}:{container.id}{name}"))
    top.add(f"digest {digest}{', signed' if signed else ''}")
    where = f" on Linux {bundle.kernel}, CRIU {bundle.criu}" if bundle.kernel else ""
    top.add(printable(f"dumped {bundle.dump.created}{where}"))
    if container.image:
        top.add(printable(f"image {container.image}"))
    sizes = {each.name: each.size for each in bundle.members}
    images = [size for name, size in sizes.items() if name.startswith(f"{IMAGES}/")]
    top.add(f"images {len(images)}, {size_in_units(sum(images))}")
    driver = bundle.dump.rootfs.driver if bundle.dump.rootfs else "?"
    layers = top.add(printable(f"layers: {driver}"))
    layers.add(f"upper, {size_in_units(sizes.get(UPPER, -1))}")
    layers.extend(printable(_layer(each, sizes)) for each in bundle.layers)
    carried = {each.mountpoint: each for each in bundle.mounts}
    if bundle.dump.externals:
        mounts = top.add("mounts from outside")
        for external in bundle.dump.externals:
            found = carried.get(external.mountpoint)
            size = sizes.get(found.member, -1) if found else -1
            mounts.add(printable(_external(external, size)))
    for path in bundle.left_out:
        top.add(printable(f"left out: the socket {path}"))
    others = [each for each in sizes if each.partition("/")[0] not in {IMAGES, LAYERS, MOUNTS}]
    for each in others:
        top.add(printable(f"{each}, {size_in_units(sizes[each])}"))
    return top


def _layer(layer: BundleLayer, sizes: dict[str, int]) -> str:
    where = size_in_units(sizes[layer.member]) if layer.member in sizes else "not in the bundle"
    return f"lower {layer.diff_id or 'of no image'}, {where}"


def _external(external: External, size: int) -> str:
    carried = f", {size_in_units(size)} of it in the bundle" if size >= 0 else ""
    mode = "" if external.mode is None else f" {external.mode & 0o7777:04o}"
    kind = external.type or "?"
    return f"{external.mountpoint}: {kind}{mode} of {external.source or '?'}{carried}"
