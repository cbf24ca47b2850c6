"""``truing doctor``: what this machine and installation offer, and what is missing."""

from __future__ import annotations

from typing import Any

from truing.cli.options import JSON


def doctor(as_json: JSON = False) -> None:
    """Show versions, devices, models that ship, and missing extras.

    \b
    Example:
      truing doctor
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, show, styled

    found = examine()
    if as_json:
        emit(json_text(found))
        return
    table = columns("", "")

    def line(name: str, value: Any, style: str = "") -> None:
        table.add_row(styled(name, "bold"), styled(str(value), style))

    line("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    machine = found["machine"]
    line("machine", f"{machine['system']} on {machine['processor']}")
    line("cores", f"{machine['cores']} to use of {machine['cores_in_all']}; torch uses {machine['threads']} threads")
    for device in found["devices"]:
        memory = f", {device['memory_gib']} GiB" if device["memory_gib"] else ""
        line(device["name"], f"{device['what']}{memory}; bfloat16: {device['bfloat16']}")
    for name, there in found["sandbox"].items():
        line(
            f"sandbox/{name}",
            "there" if there else "missing; make it with: truing sandbox build",
            "" if there else "yellow",
        )
    for name, extra in found["extras"].items():
        missing = ", ".join(extra["missing"])
        line(
            f"extra {name}",
            f"missing {missing}; get it with: {extra['install']}" if missing else "there",
            "yellow" if missing else "",
        )
    show(table)


def examine() -> dict[str, Any]:
    """What `truing doctor` shows, as plain values."""
    import os
    import platform

    import torch

    from truing.cli.sandbox import models
    from truing.runs.facts import versions

    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "versions": versions(),
        "machine": {
            "system": platform.platform(terse=True),
            "processor": platform.machine(),
            "cores": len(affinity(0)) if affinity else os.cpu_count(),
            "cores_in_all": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "devices": _devices(),
        "sandbox": models(),
        "extras": extras(),
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    def cpu(name: str) -> bool:
        ask = getattr(torch.cpu, name, None)
        return bool(ask and ask())

    native = cpu("_is_avx512_bf16_supported") or cpu("_is_amx_tile_supported")
    found: list[dict[str, Any]] = [
        {
            "name": "cpu",
            "what": torch.backends.cpu.get_cpu_capability(),
            "memory_gib": None,
            "bfloat16": "in hardware" if native else "emulated, so float32 is quicker",
        }
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        found.append(
            {
                "name": f"cuda:{index}",
                "what": gpu.name,
                "memory_gib": round(gpu.total_memory / 2**30),
                "bfloat16": "in hardware" if native else "no",
            }
        )
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found.append({"name": "mps", "what": "Apple GPU", "memory_gib": None, "bfloat16": "yes"})
    return found


def extras() -> dict[str, dict[str, Any]]:
    """Each optional extra of truing: which of its packages are missing or of another version, and how to get them."""
    from importlib.metadata import PackageNotFoundError, metadata, requires, version

    from packaging.requirements import Requirement

    found: dict[str, dict[str, Any]] = {
        name: {"missing": [], "install": f"pip install 'truing[{name}]'"}
        for name in metadata("truing").get_all("Provides-Extra") or []
    }
    for text in requires("truing") or []:
        wanted = Requirement(text)
        for name in found:
            if (
                wanted.marker is None
                or wanted.marker.evaluate({"extra": ""})
                or not wanted.marker.evaluate({"extra": name})
            ):
                continue
            try:
                held = version(wanted.name)
            except PackageNotFoundError:
                found[name]["missing"].append(wanted.name)
                continue
            if not wanted.specifier.contains(held, prereleases=True):
                found[name]["missing"].append(f"{wanted.name}{wanted.specifier} (this is {held})")
    return found
