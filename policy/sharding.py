"""One mesh of devices, and which of its axes each parameter is cut along.

`data` repeats the model and cuts the batch; `fsdp` cuts batch and model both, each device gathering what it needs;
`tensor` cuts the model inside its layers, heads and hidden units apart.
"""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))  # how a batch is cut

_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding\.embedding$", ("tensor", "fsdp")),
    (r"(q|k|v|qkv|gate|up|head)\.(base\.)?kernel$", ("fsdp", "tensor")),
    (r"(out|down)\.(base\.)?kernel$", ("tensor", "fsdp")),
    (r"(q|k|v|qkv|gate|up)\.(base\.)?bias$", ("tensor",)),
    (r"lora_a$", ("fsdp", None)),
    (r"lora_b$", (None, "tensor")),
    (r"vision\.embed\.kernel$", (None, "fsdp")),
    (r"vision\.places$", (None, None, "fsdp")),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of some); one of its sizes may be -1: what is left.

    Raises ValueError where the sizes do not make up the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(f"data={data} x fsdp={fsdp} x tensor={tensor} do not make up {len(devices)} devices")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The axes of a parameter, given its dotted path: those of the first rule that fits, where they divide it."""
    for pattern, axes in _RULES:
        if re.search(pattern, path) and len(axes) == len(shape):
            fit = [
                axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)
            ]
            return PartitionSpec(*fit)
    return PartitionSpec()


def place(path: str, shape: tuple[int, ...], mesh: Mesh | None) -> NamedSharding | None:
    """Where a parameter lives; without a mesh None: on the device where programs run, not pinned to it."""
    return None if mesh is None else NamedSharding(mesh, spec(path, shape, mesh))


def cut_rows(batch: jax.Array, mesh: Mesh | None) -> jax.Array:
    """A batch cut along its first axis where the mesh divides it, else repeated; without a mesh: as it is."""
    if mesh is None:
        return batch
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return jax.device_put(batch, NamedSharding(mesh, ROWS if batch.shape[0] % parts == 0 else PartitionSpec()))
