"""The rules by which `ganjax.run.export.onnx_graph` writes each primitive of JAX as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ganjax.run.export.onnx_graph import BITCAST_OPSET, Graph, Rule
from ganjax.runtime.errors import UserError

TO_THE_END = np.iinfo(np.int64).max
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def simple(op: str) -> Rule:
    """Makes the rule of a primitive that is one node, element by element."""
    return lambda graph, eqn, *inputs: graph.add(op, *inputs)


def through(function: Callable[..., Any]) -> Rule:
    """Makes the rule of a primitive that is written by other primitives."""
    return lambda graph, eqn, *inputs: graph.inline(function, inputs, [var.aval for var in eqn.invars])


def reduction(op: str) -> Rule:
    """Makes the rule of a primitive with `axes`."""
    return lambda graph, eqn, x: graph.add(op, x, graph.constant(eqn.params["axes"], np.int64), keepdims=0)


def logical(bits: str, truth: str) -> Rule:
    """Makes the rule of a primitive on bits or on truth values: `bits` and `truth` are their operations."""
    return lambda graph, eqn, *x: graph.add(truth if eqn.outvars[0].aval.dtype == bool else bits, *x)


def called(graph: Graph, eqn: Any, *inputs: str) -> list[str]:
    """Writes the function inside a call; of several platforms, the one for all others."""
    inner = next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in eqn.params)
    return graph.jaxpr(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)


def branch(graph: Graph, eqn: Any, index: str, *inputs: str) -> list[str]:
    """Writes the branch for platforms that are not named; refuses others."""
    platforms = eqn.params.get("branches_platforms")
    if not platforms or None not in platforms:
        raise UserError("There is no ONNX for a branch that depends on numbers; .jaxexport has all of JAX.")
    chosen = eqn.params["branches"][platforms.index(None)]
    return graph.jaxpr(chosen.jaxpr, chosen.consts, inputs)


def broadcast(graph: Graph, eqn: Any, x: str) -> str:
    """Adds new axes, and repeats old ones of length 1."""
    aval, shape = eqn.invars[0].aval, eqn.params["shape"]
    sides: list[Any] = [1] * len(shape)
    for axis, side in zip(eqn.params["broadcast_dimensions"], aval.shape, strict=True):
        sides[axis] = side
    x = graph.reshape(x, sides)
    return x if tuple(sides) == tuple(shape) else graph.add("Expand", x, graph.numbers(shape))


def convolution(graph: Graph, eqn: Any, x: str, kernel: str) -> str:
    """Writes a convolution of any layout, stride, padding and grouping; the input may not be dilated."""
    given = eqn.params
    if set(given["lhs_dilation"]) != {1} or given["batch_group_count"] != 1:
        raise UserError("There is no ONNX here for a transposed convolution; .jaxexport has all of JAX.")
    numbers = given["dimension_numbers"]
    y = graph.add(
        "Conv",
        graph.add("Transpose", x, perm=numbers.lhs_spec),
        graph.add("Transpose", kernel, perm=numbers.rhs_spec),
        strides=given["window_strides"],
        dilations=given["rhs_dilation"],
        group=given["feature_group_count"],
        pads=[low for low, _ in given["padding"]] + [high for _, high in given["padding"]],
    )
    return graph.add("Transpose", y, perm=np.argsort(numbers.out_spec).tolist())


def product(graph: Graph, eqn: Any, x: str, y: str) -> str:
    """Writes any product of two arrays: as MatMul where it is one, else as Einsum."""
    (x_sum, y_sum), (x_batch, y_batch) = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    if not x_batch and ranks == [2, 2] and tuple(x_sum) == (1,) and tuple(y_sum) == (0,):
        return graph.add("MatMul", x, y)
    letters = iter(LETTERS)
    first = [next(letters) for _ in range(ranks[0])]
    shared = dict(zip([*y_sum, *y_batch], [first[axis] for axis in [*x_sum, *x_batch]], strict=True))
    second = [shared.get(axis) or next(letters) for axis in range(ranks[1])]
    out = [first[axis] for axis in x_batch]
    out += [letter for axis, letter in enumerate(first) if axis not in {*x_sum, *x_batch}]
    out += [letter for axis, letter in enumerate(second) if axis not in shared]
    return graph.add("Einsum", x, y, equation=f"{''.join(first)},{''.join(second)}->{''.join(out)}")


def gather(graph: Graph, eqn: Any, x: str, index: str) -> str:
    """Writes one window, `x[:, 3:5]`, or whole slices at indices along one axis, `x[index]`."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, indices = (var.aval.shape for var in eqn.invars)
    axes = numbers.start_index_map
    if len(indices) == 1:
        start = graph.cast(index, np.int64)
        end = graph.add("Add", start, graph.constant([sizes[axis] for axis in axes], np.int64))
        window = graph.add("Slice", x, start, end, graph.constant(axes, np.int64))
        return graph.reshape(window, eqn.outvars[0].aval.shape)
    axis, rank = axes[0], len(indices) - 1
    outer = [i for i in range(len(shape) - 1 + rank) if not axis <= i < axis + rank]
    if (
        axes != (axis,)
        or numbers.collapsed_slice_dims != axes
        or list(sizes) != [1 if i == axis else side for i, side in enumerate(shape)]
        or list(numbers.offset_dims) != outer
        or numbers.operand_batching_dims
    ):
        raise UserError("There is no ONNX here for a gather of this kind; .jaxexport has all of JAX.")
    return graph.add("Gather", x, graph.reshape(index, indices[:-1]), axis=axis)


def pad(graph: Graph, eqn: Any, x: str, value: str) -> str:
    """Adds values around the edges; negative numbers cut."""
    low, high, inside = zip(*eqn.params["padding_config"], strict=True)
    if any(inside):
        raise UserError("There is no ONNX here for padding between elements; .jaxexport has all of JAX.")
    return graph.add("Pad", x, graph.constant([*low, *high], np.int64), value)


def slices(graph: Graph, eqn: Any, x: str) -> str:
    """Writes start:end:step of every axis."""
    given, rank = eqn.params, len(eqn.params["start_indices"])
    ends = [end if isinstance(end, int | np.integer) else TO_THE_END for end in given["limit_indices"]]
    parts = (given["start_indices"], ends, range(rank), given["strides"] or [1] * rank)
    return graph.add("Slice", x, *(graph.constant([int(v) for v in part], np.int64) for part in parts))


def stack(graph: Graph, eqn: Any, *inputs: str) -> str:
    """Stacks the inputs along a new axis."""
    axis = eqn.params["axis"]
    new = graph.constant([axis], np.int64)
    return graph.add("Concat", *(graph.add("Unsqueeze", x, new) for x in inputs), axis=axis)


def window_max(graph: Graph, eqn: Any, x: str) -> str:
    """Writes max pooling over the middle axes of NHWC."""
    given = eqn.params
    if set(given["base_dilation"]) | set(given["window_dilation"]) != {1} or len(given["padding"]) != 4:
        raise UserError("There is no ONNX here for pooling of this kind; .jaxexport has all of JAX.")
    pads = given["padding"][1:3]
    y = graph.add(
        "MaxPool",
        graph.add("Transpose", x, perm=[0, 3, 1, 2]),
        kernel_shape=given["window_dimensions"][1:3],
        strides=given["window_strides"][1:3],
        pads=[low for low, _ in pads] + [high for _, high in pads],
    )
    return graph.add("Transpose", y, perm=[0, 2, 3, 1])


def bits_of(graph: Graph, eqn: Any, x: str) -> str:
    """Writes the same bits as another type."""
    graph.opset = BITCAST_OPSET
    return graph.add(
        "BitCast", x, to=graph.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    )


def counted(graph: Graph, eqn: Any) -> str:
    """Writes `iota`."""
    given = eqn.params
    sides = [given["shape"][i] if i == given["dimension"] else 1 for i in range(len(given["shape"]))]
    count = np.arange(given["shape"][given["dimension"]], dtype=given["dtype"]).reshape(sides)
    return graph.add("Expand", graph.constant(count), graph.numbers(given["shape"]))


def erf_inv(x: jax.Array) -> jax.Array:
    """Returns erf⁻¹ in float32 (Giles 2010, "Approximating the erfinv function"), as XLA computes it."""
    w = -jnp.log1p(-x * x)
    near = [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087]
    near += [-0.00125372503, -0.00417768164, 0.246640727, 1.50140941]
    far = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773]
    far += [-0.0076224613, 0.00943887047, 1.00167406, 2.83297682]
    small = w < 5.0
    w = jnp.where(small, w - 2.5, jnp.sqrt(w) - 3.0)
    p = jnp.where(small, near[0], far[0])
    for a, b in zip(near[1:], far[1:], strict=True):
        p = jnp.where(small, a, b) + p * w
    return p * x


def threefry(k0: jax.Array, k1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns Threefry-2x32 with 20 rounds (Salmon et al. 2011), the generator of `jax.random`.

    All arrays are uint32 and of one shape.
    """
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn)))
        x0, x1 = x0 + keys[(group + 1) % 3], x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def seed_key(seed: jax.Array) -> jax.Array:
    """Returns the key [2] of a seed of 32 bits."""
    return jnp.stack([jnp.uint32(0), seed.astype(jnp.uint32)])


def fold_in(keys: jax.Array, number: jax.Array) -> jax.Array:
    """Folds keys [..., 2] with numbers [...]."""
    number = number.astype(jnp.uint32)
    shape = jnp.broadcast_shapes(keys.shape[:-1], number.shape)
    k0, k1 = (jnp.broadcast_to(keys[..., i], shape) for i in (0, 1))
    number = jnp.broadcast_to(number, shape)
    return jnp.stack(threefry(k0, k1, jnp.zeros_like(number), number), axis=-1)


def random_bits(graph: Graph, eqn: Any, keys: str) -> list[str]:
    """Writes 32 random bits an element, as `jax_threefry_partitionable` draws them."""
    shape, (aval,) = eqn.params["shape"], [var.aval for var in eqn.invars]
    if eqn.params["bit_width"] != 32:
        raise UserError("There is no ONNX here for random numbers of other than 32 bits.")
    count = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)

    def bits(keys: jax.Array) -> jax.Array:
        full = (*keys.shape[:-1], *shape)
        own = (*keys.shape[:-1], *[1] * len(shape))
        k0, k1 = (jnp.broadcast_to(keys[..., i].reshape(own), full) for i in (0, 1))
        numbers = jnp.broadcast_to(count.reshape((1,) * (len(full) - len(shape)) + shape), full)
        x0, x1 = threefry(k0, k1, jnp.zeros_like(numbers), numbers)
        return x0 ^ x1

    return graph.inline(bits, [keys], [raw_key(aval)])


def raw_key(aval: Any) -> Any:
    """Returns the shape and type of keys as numbers."""
    if not jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return aval
    return jax.ShapeDtypeStruct((*aval.shape, 2), jnp.uint32)


def with_keys(function: Callable[..., Any]) -> Rule:
    """Makes a rule as `through` does, for arguments that may be keys."""
    return lambda graph, eqn, *x: graph.inline(function, x, [raw_key(var.aval) for var in eqn.invars])


def convert(graph: Graph, eqn: Any, x: str) -> str:
    """Converts x to another type."""
    return graph.cast(x, eqn.params["new_dtype"])


def power(graph: Graph, eqn: Any, x: str) -> str:
    """Writes a whole power of x."""
    return graph.add("Pow", x, graph.constant(eqn.params["y"], eqn.invars[0].aval.dtype))


def plus(number: int, graph: Graph, eqn: Any, x: str) -> str:
    """Adds `number` to x."""
    return graph.add("Add", x, graph.constant(number, eqn.invars[0].aval.dtype))


RULES: dict[str, Rule] = {
    **{name: called for name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "checkpoint")},
    **{name: simple(name.capitalize()) for name in ("add", "sub", "mul", "div", "max", "min", "pow", "neg")},
    **{
        name: simple(name.capitalize())
        for name in ("abs", "exp", "log", "tanh", "sqrt", "erf", "sign", "floor")
    },
    **{name: simple("Identity") for name in ("copy", "stop_gradient", "random_wrap", "random_unwrap")},
    "logistic": simple("Sigmoid"),
    "log1p": lambda graph, eqn, x: graph.add("Log", plus(1, graph, eqn, x)),
    "expm1": lambda graph, eqn, x: plus(-1, graph, eqn, graph.add("Exp", x)),
    "square": lambda graph, eqn, x: graph.add("Mul", x, x),
    "rsqrt": lambda graph, eqn, x: graph.add("Reciprocal", graph.add("Sqrt", x)),
    "integer_pow": power,
    "erf_inv": through(erf_inv),
    "lt": simple("Less"),
    "le": simple("LessOrEqual"),
    "gt": simple("Greater"),
    "ge": simple("GreaterOrEqual"),
    "eq": simple("Equal"),
    "ne": lambda graph, eqn, *x: graph.add("Not", graph.add("Equal", *x)),
    "not": simple("Not"),
    "and": logical("BitwiseAnd", "And"),
    "or": logical("BitwiseOr", "Or"),
    "xor": logical("BitwiseXor", "Xor"),
    "shift_left": lambda graph, eqn, *x: graph.add("BitShift", *x, direction="LEFT"),
    "shift_right_logical": lambda graph, eqn, *x: graph.add("BitShift", *x, direction="RIGHT"),
    "select_n": lambda graph, eqn, chosen, no, yes: graph.add("Where", chosen, yes, no),
    "clamp": lambda graph, eqn, low, x, high: graph.add("Min", graph.add("Max", x, low), high),
    "reduce_sum": reduction("ReduceSum"),
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_window_max": window_max,
    "broadcast_in_dim": broadcast,
    "reshape": lambda graph, eqn, x: graph.reshape(x, eqn.params["new_sizes"]),
    "squeeze": lambda graph, eqn, x: graph.reshape(x, eqn.outvars[0].aval.shape),
    "expand_dims": lambda graph, eqn, x: graph.reshape(x, eqn.outvars[0].aval.shape),
    "transpose": lambda graph, eqn, x: graph.add("Transpose", x, perm=eqn.params["permutation"]),
    "concatenate": lambda graph, eqn, *x: graph.add("Concat", *x, axis=eqn.params["dimension"]),
    "stack": stack,
    "tile": lambda graph, eqn, x: graph.add("Tile", x, graph.constant(eqn.params["reps"], np.int64)),
    "slice": slices,
    "pad": pad,
    "gather": gather,
    "iota": counted,
    "convert_element_type": convert,
    "bitcast_convert_type": bits_of,
    "conv_general_dilated": convolution,
    "dot_general": product,
    "platform_index": lambda graph, eqn: graph.constant(0, np.int32),
    "cond": branch,
    "random_seed": with_keys(seed_key),
    "random_fold_in": with_keys(fold_in),
    "random_bits": random_bits,
}
