"""One mesh of devices, and which of its axes each parameter is cut along.

`data` repeats the model and cuts the batch; `fsdp` cuts batch and model both, each device gathering what it needs;
`tensor` cuts the model inside its layers, heads and hidden units apart.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))  # how a batch is cut
Tree = TypeVar("Tree")

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


def path_of(path: Any) -> str:
    """A leaf's dotted path, from that of `jax.tree_util`."""
    return ".".join(
        str(getattr(step, "key", getattr(step, "idx", step))) for step in path if getattr(step, "name", "") != "value"
    )


def places(tree: Any, mesh: Mesh) -> Any:
    """Where every leaf of a tree lives: parameters, or what an optimizer keeps of each under the same path."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: place(path_of(path), leaf.shape, mesh), tree)


def spread(tree: Tree, mesh: Mesh | None) -> Tree:
    """Parameters where they live on a mesh; without one as they are. Every process has them whole, or there already."""
    return tree if mesh is None else jax.tree.map(_put, tree, places(tree, mesh))


def hold(tree: Tree, mesh: Mesh | None) -> Tree:
    """The same inside a jitted function: what comes out of it lives where it lived."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, places(tree, mesh))


def rows(x: jax.Array, mesh: Mesh | None, last: str | None = None) -> jax.Array:
    """Something of a batch inside a jitted function: cut along its first axis, and along its last by an axis's name.

    Left to itself XLA would cut what a layer makes as its parameters are cut, and send all of it around: more than the
    parameters are. Where the mesh does not divide the rows, and without a mesh, it is as it was.
    """
    if mesh is None or len(x) % row_parts(mesh) or _each_by_itself():
        return x
    whole = last is None or x.shape[-1] % mesh.shape[last] > 0
    middle = (None,) * (x.ndim - 2)
    home = NamedSharding(mesh, PartitionSpec(*ROWS, *middle, None if whole else last))
    return jax.lax.with_sharding_constraint(x, home)


def along(table: jax.Array, mesh: Mesh | None, part: str, *, axis: int) -> jax.Array:
    """A matrix inside a jitted function, cut along one of its axes alone, by an axis of the mesh."""
    if mesh is None or table.shape[axis] % mesh.shape[part] or _each_by_itself():
        return table
    home = NamedSharding(mesh, PartitionSpec(*(part if i == axis else None for i in range(2))))
    return jax.lax.with_sharding_constraint(table, home)


def _each_by_itself() -> bool:
    """Whether every device works on its own, under `shard_map`."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def row_parts(mesh: Mesh | None) -> int:
    """In how many parts a batch is cut."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def cut_rows(batch: Tree, mesh: Mesh | None) -> Tree:
    """Arrays cut along their first axes where the mesh divides them, else repeated; without a mesh: as they are.

    Every process has them whole.
    """
    if mesh is None:
        return batch
    parts = row_parts(mesh)

    def cut(leaf: Any) -> jax.Array:
        return _put(leaf, NamedSharding(mesh, PartitionSpec() if leaf.shape[0] % parts else ROWS))

    return jax.tree.map(cut, batch)


def gather(tree: Tree, mesh: Mesh | None) -> Tree:
    """What a program on a mesh gave, whole on the first device of every process; without a mesh as it is."""
    return tree if mesh is None else jax.tree.map(jnp.asarray, jax.device_get(_repeat(mesh)(tree)))


def to_host(leaf: jax.Array) -> np.ndarray:
    """A whole array in the memory of every process, wherever its parts are: all processes ask at the same time."""
    whole = leaf.is_fully_addressable or leaf.is_fully_replicated
    return np.asarray(leaf if whole else multihost_utils.process_allgather(leaf, tiled=True))


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that parameters are spread over, if any."""
    homes = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params))
    meshes = (home.mesh for home in homes if isinstance(home, NamedSharding))
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh)), None)


def _put(leaf: Any, home: NamedSharding) -> jax.Array:
    if home.is_fully_addressable or getattr(leaf, "sharding", None) == home:
        return jax.device_put(leaf, home)
    parts = home.addressable_devices_indices_map(leaf.shape)  # `device_put` would compare what the processes have
    return jax.make_array_from_single_device_arrays(
        leaf.shape, home, [jax.device_put(leaf[index], device) for device, index in parts.items()]
    )


@functools.cache
def _repeat(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))
