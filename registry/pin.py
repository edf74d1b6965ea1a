"""The version that config.pbtxt pins for Triton, held against the one that labels.json calls production."""

from __future__ import annotations

from registry import config_pbtxt
from registry.inventory import find_production
from registry.labels import Labels
from registry.store import CONFIG_FILE, Stored, VersionStore


def out_of_step(store: VersionStore, labels: Labels) -> str | None:
    """Where config.pbtxt serves another version than the one in production: both, in words."""
    pinned = pinned_versions(store.read(CONFIG_FILE))
    if labels.production is None or pinned == [labels.production]:
        return None
    serves = "version " + ", ".join(map(str, pinned)) if pinned else "no pinned version"
    return f"config.pbtxt serves {serves}, and version {labels.production} is in production"


def mend(store: VersionStore, labels: Labels) -> list[str]:
    """Pin the version in production again, where config.pbtxt serves another."""
    apart = out_of_step(store, labels)
    production = find_production(store, labels)
    if apart is None or production is None or production.spec is None:
        return []
    config = store.read(CONFIG_FILE)
    text = config.text or ""
    pinned = config_pbtxt.pinned(text, version=production.number, spec=production.spec, gpu=on_gpu(text))
    store.write(CONFIG_FILE, pinned, over=config)
    return [f"mended: {apart}"]


def pinned_versions(config: Stored) -> list[int]:
    """The versions that the text of a config.pbtxt pins."""
    return list(config_pbtxt.read(config.text or "").version_policy.specific.versions)


def on_gpu(config: str) -> bool:
    """Whether the text of a config.pbtxt runs the network on GPUs."""
    groups = config_pbtxt.read(config).instance_group
    return any(group.kind == group.KIND_GPU for group in groups)
