"""Converts a function of JAX to an ONNX model, with the operations that the generators use, for any number of images.

The function is traced to a jaxpr with a symbolic batch, and each of its primitives is written as nodes of ONNX by one
of the rules of `onnx_rules`. A primitive without a counterpart (random bits, erf⁻¹) is a function of JAX there, which
is traced in turn. So the noise of StyleGAN2, which is drawn from the bits of the latent vectors, is the same in the
file.

Needs the extra `onnx`. Images stay NHWC; a convolution is put between two transpositions, which runtimes remove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from ganjax.models.layers import native
from ganjax.runtime.errors import UserError

OPSET, BITCAST_OPSET = 18, 26  # the first with axes as inputs; the first with BitCast
IR_VERSION = 10  # that older runtimes read; BITCAST_OPSET's own is 13
LARGEST = 2**31 - 2**20  # bytes of a protobuf, with room for the nodes
Rule = Callable[..., "str | list[str]"]


class Graph:
    """The nodes and constants of a model in the making; values are referred to by their names."""

    def __init__(self, batch: Any, rules: Mapping[str, Rule]) -> None:
        """Starts an empty graph.

        `batch` is the symbolic dimension of inputs and outputs; `rules` go by names of primitives.
        """
        from onnx import helper, numpy_helper

        self.helper, self.to_tensor = helper, numpy_helper.from_array
        self.rules = rules
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.batch, self.batch_name, self.opset = batch, "", OPSET
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and returns the output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant and returns its name; equal constants are kept once."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.name_constant(f"c{len(self._known)}", array)
        return self._known[key]

    def name_constant(self, name: str, array: np.ndarray) -> str:
        """Adds a constant of that name, and returns the name."""
        self.constants[name] = self.to_tensor(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def numbers(self, values: Sequence[Any]) -> str:
        """Adds an int64 [K] of numbers, any of which may be the batch, and returns its name."""
        if all(isinstance(value, int | np.integer) for value in values):
            return self.constant(list(map(int, values)), np.int64)
        parts = [self.batch_name if v is self.batch or v == self.batch else self.numbers([v]) for v in values]
        return self.add("Concat", *parts, axis=0)

    def reshape(self, x: str, shape: Sequence[Any]) -> str:
        """Adds a node that reshapes x, and returns its output's name. At most one side may depend on the batch."""
        sides = [int(side) if isinstance(side, int | np.integer) else -1 for side in shape]
        return self.add("Reshape", x, self.constant(sides, np.int64))

    def cast(self, x: str, dtype: Any) -> str:
        """Adds a node that casts x to another type, and returns its output's name."""
        return self.add("Cast", x, to=self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def inline(self, function: Callable[..., Any], names: Sequence[str], avals: Sequence[Any]) -> list[str]:
        """Adds a function of JAX and returns the names of its outputs. `avals` have its arguments' shapes and types."""
        given = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        with native.portable():
            closed = jax.make_jaxpr(function)(*given)
        return self.jaxpr(closed.jaxpr, closed.consts, names)

    def jaxpr(self, jaxpr: Any, consts: Sequence[Any], names: Sequence[str]) -> list[str]:
        """Adds a jaxpr, and returns the names of its outputs, given those of its inputs.

        Raises:
          UserError: the jaxpr has a primitive without a rule.
        """
        known: dict[Any, str] = dict(zip(jaxpr.invars, names, strict=True))
        known |= {var: self.constant(np.asarray(x)) for var, x in zip(jaxpr.constvars, consts, strict=True)}
        literal = lambda var: hasattr(var, "val")
        read = lambda var: self.constant(var.val, var.aval.dtype) if literal(var) else known[var]
        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            if name not in self.rules:
                raise UserError(
                    f"There is no ONNX for {name}, which this network uses; .jaxexport has all of JAX."
                )
            made = self.rules[name](self, eqn, *map(read, eqn.invars))
            outputs = [made] if isinstance(made, str) else made
            known |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(var) for var in jaxpr.outvars]


def to_onnx(
    function: Callable[..., jax.Array],
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[Sequence[int], Any]],
    output: str,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Returns the bytes of an ONNX model of `function`.

    Args:
      function: (weights by name, one array [N, …] for each of `inputs`) → an array [N, …]; float32.
      weights: arrays that become the constants of the model.
      inputs: name → shape of one of the N elements, and type.
      output: name of the model's output.
      metadata: texts that the model carries.

    Raises:
      UserError: `onnx` is not installed, a primitive has no rule here, or the weights exceed 2 GiB.
    """
    from ganjax.run.export.onnx_rules import RULES

    try:
        import onnx
    except ImportError as error:
        raise UserError(f"ONNX needs the extra onnx: pip install 'ganjax[onnx]' ({error}).") from None
    if sum(x.nbytes for x in weights.values()) > LARGEST:
        raise UserError("The weights exceed the 2 GiB that an ONNX file holds; .jaxexport has no such limit.")
    (n,) = jax_export.symbolic_shape("n")
    given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    rest = [jax.ShapeDtypeStruct((n, *shape), dtype) for shape, dtype in inputs.values()]
    with native.portable():
        closed, out = jax.make_jaxpr(function, return_shape=True)(given, *rest)
    graph = Graph(n, RULES)
    first = next(iter(inputs))
    graph.batch_name = graph.add("Shape", first, start=0, end=1)
    names = [
        graph.name_constant(name, weights[name]) for name in sorted(weights)
    ]  # in the order of jax's leaves
    (made,) = graph.jaxpr(closed.jaxpr, closed.consts, [*names, *inputs])
    graph.nodes.append(graph.helper.make_node("Identity", [made], [output]))
    used = {name for node in graph.nodes for name in node.input}
    describe = lambda name, x: graph.helper.make_tensor_value_info(
        name,
        graph.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)),
        [side if isinstance(side, int) else "n" for side in x.shape],
    )
    model = graph.helper.make_model(
        graph.helper.make_graph(
            graph.nodes,
            "ganjax",
            [describe(name, x) for name, x in zip(inputs, rest, strict=True)],
            [describe(output, out)],
            [tensor for name, tensor in graph.constants.items() if name in used],
        ),
        producer_name="ganjax",
        opset_imports=[graph.helper.make_opsetid("", graph.opset)],
        ir_version=IR_VERSION if graph.opset == OPSET else onnx.IR_VERSION,
    )
    graph.helper.set_model_props(model, dict(metadata or {}))
    return bytes(model.SerializeToString())
