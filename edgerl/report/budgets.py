"""What a model uses of the budgets of every device that comes with edgerl."""

from __future__ import annotations

from typing import Any

from edgerl.edge.runtimes import RUN_BY
from edgerl.profiling.budgets.device import device_ids, find_device
from edgerl.profiling.budgets.report import BUDGETS, profile
from edgerl.profiling.budgets.rows import ModelRows


def device_budgets(rows: ModelRows) -> list[dict[str, Any]]:
    """One object per device, with its default runtime and the verdict on each budget; devices whose runtime cannot run
    the model are left out."""
    devices = []
    for device in map(find_device, device_ids()):
        if device.default_runtime not in RUN_BY[rows.kind]:
            continue
        report = profile(rows, device)
        devices.append(
            {
                "id": report.device,
                "name": report.device_name,
                "runtime": report.runtime,
                "fits": report.fits,
                "verdicts": {
                    name: {
                        "used": v.used,
                        "budget": v.budget,
                        "unit": v.unit,
                        "share": v.used / v.budget,
                        "fits": v.fits,
                    }
                    for name in BUDGETS
                    for v in (report.verdicts[name],)
                },
            }
        )
    return devices
