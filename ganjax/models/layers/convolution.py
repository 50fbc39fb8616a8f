"""Convolutions of stride 1: XLA's own, or on CPU the native kernels of `ganjax.models.layers.native`.

A 3×3 convolution may be joined with what comes before or after it: with `UP` every pixel is doubled first, with `DOWN`
2×2 pixels are averaged afterwards. On CPU the two become one convolution with 16 products a small pixel, not 36.

The native ones, for float32 and bfloat16, are two bilinear primitives, closed under differentiation of any order and
kind:

* `forward`: images [N, H, W, I] and kernel [kh, kw, I, O] → [N, H', W', O]; with `flip` the kernel is read in
  reverse and its channels exchanged, which makes it the gradient with respect to the images;
* `kernel_gradient`: images [N, H, W, I] and slopes [N, H', W', O] → [kh, kw, I, O].

Here `DOWN` adds up 2×2 pixels without dividing, so that it and `UP` are each other's transpose. `STRIDED`, every other
pixel of a 3×3 convolution without zeros around, [2H + 1] → [H], and `SPREAD`, zeros between the pixels and two around
before it, [H] → [2H + 1], are another such pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ganjax.models.layers import native

Padding = tuple[tuple[int, int], tuple[int, int]]
NHWC = ("NHWC", "HWIO", "NHWC")
PLAIN, UP, DOWN, STRIDED, SPREAD = "plain", "up", "down", "strided", "spread"
NATIVE_SUFFIX = {np.dtype(jnp.float32): "", np.dtype(jnp.bfloat16): "_half"}  # of the kernels for a type
NONE, ONE, TWO = (((n, n), (n, n)) for n in range(3))  # zeros around
PADDING = {UP: ONE, DOWN: ONE, STRIDED: NONE, SPREAD: TWO}
MODES = {PLAIN: 0, UP: 1, DOWN: 2, STRIDED: 3, SPREAD: 4}  # as convolution.cc numbers them


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    resample: str = PLAIN,
) -> jax.Array:
    """Convolves x [N, H, W, I] with kernel [kh, kw, I, O], stride 1.

    Args:
      x: images, NHWC; H and W even with DOWN.
      kernel: HWIO.
      padding: SAME, VALID, or zeros ((top, bottom), (left, right)); SAME where it is resampled.
      resample: PLAIN, UP (nearest neighbour, before) or DOWN (2×2 average, after).

    Returns:
      [N, H', W', O].
    """
    pads = _pads(padding, kernel.shape)
    if min(min(pair) for pair in pads) < 0 or not native_fits(x, kernel):
        y = _xla_forward(x, kernel, padding=pads, flip=False, mode=resample)
    elif resample == PLAIN or kernel.shape[:2] == (3, 3):
        y = forward(x, kernel, pads, flip=False, mode=resample)
    elif resample == UP:
        y = forward(upsample(x), kernel, pads, flip=False)
    else:
        y = _sum_pool(forward(x, kernel, pads, flip=False))
    return y / 4 if resample == DOWN else y


def native_fits(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns True if the primitives below fit these arrays: of one type that they know, on CPU, and compiled."""
    return x.dtype == kernel.dtype and x.dtype in NATIVE_SUFFIX and native.in_use()


def smooth(x: jax.Array, around: int) -> jax.Array:
    """Applies the filter (1, 3, 3, 1) / 8 along both axes with `around` (1 or 2) zeros on every side.

    Args:
      x: the images [N, H, W, C]; sums are float32.
      around: the number of zeros. 1 makes each side a pixel shorter, 2 a pixel longer; each is the other's transpose.

    Returns:
      [N, H + 2·around − 3, W + 2·around − 3, C].
    """
    if x.dtype in NATIVE_SUFFIX and native.in_use():
        return smooth_p.bind(x.astype(np.float32), around=around).astype(x.dtype)
    return _xla_smooth(x.astype(np.float32), around=around).astype(x.dtype)


def _xla_smooth(x: jax.Array, *, around: int) -> jax.Array:
    for axis in (1, 2):
        size = x.shape[axis] + 2 * around - 3
        padded = jnp.pad(x, [(around, around) if i == axis else (0, 0) for i in range(x.ndim)])
        terms = [
            tap / 8 * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k, tap in enumerate((1, 3, 3, 1))
        ]
        x = sum(terms[1:], terms[0])
    return x


def upsample(x: jax.Array) -> jax.Array:
    """Doubles the sides by nearest neighbour, `[N, H, W, C] -> [N, 2H, 2W, C]`."""
    n, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (n, h, 2, w, 2, c))
    return wide.reshape(n, 2 * h, 2 * w, c)


def downsample(x: jax.Array) -> jax.Array:
    """Halves the sides by 2×2 average pooling, `[N, 2H, 2W, C] -> [N, H, W, C]`."""
    return _sum_pool(x) / 4


def _sum_pool(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return jnp.sum(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` as Flax's `Conv` calls it, by `convolve` where that can do it."""
    ones = (*window_strides, *(lhs_dilation or ()), *(rhs_dilation or ()), feature_group_count)
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    nhwc = numbers == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
    if all(n == 1 for n in ones) and precision is None and nhwc:
        return convolve(lhs, rhs, padding)
    return jax.lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def forward(x: jax.Array, kernel: jax.Array, padding: Padding, *, flip: bool, mode: str = PLAIN) -> jax.Array:
    """Binds the primitive `forward`, see the module's text.

    In a `mode` other than PLAIN the kernel is 3×3, with the zeros of `PADDING` at each side.
    """
    return forward_p.bind(x, kernel, padding=padding, flip=flip, mode=mode)


def kernel_gradient(x: jax.Array, slope: jax.Array, padding: Padding, mode: str = PLAIN) -> jax.Array:
    """Binds the primitive `kernel_gradient`, see the module's text.

    The kernel's size follows from the shapes; `mode` is PLAIN, DOWN or STRIDED.
    """
    return kernel_gradient_p.bind(x, slope, padding=padding, mode=mode)


def _flipped(kernel: jax.Array) -> jax.Array:
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _pads(padding: str | Sequence[tuple[int, int]], kernel: Sequence[int]) -> Padding:
    if not isinstance(padding, str):
        (top, bottom), (left, right) = padding
        return (int(top), int(bottom)), (int(left), int(right))
    assert padding in ("SAME", "VALID"), padding
    before = [(size - 1) // 2 if padding == "SAME" else 0 for size in kernel[:2]]
    total = [size - 1 if padding == "SAME" else 0 for size in kernel[:2]]
    return (before[0], total[0] - before[0]), (before[1], total[1] - before[1])


def _back(padding: Padding, size: Sequence[int]) -> Padding:
    """Returns the padding of the convolution that leads back from the result to the images."""
    (top, bottom), (left, right) = padding
    return (size[0] - 1 - top, size[0] - 1 - bottom), (size[1] - 1 - left, size[1] - 1 - right)


def _result(size: int, pads: tuple[int, int], kernel: int) -> int:
    return size + sum(pads) - kernel + 1


def _forward_shape(x: Any, kernel: Any, *, padding: Padding, flip: bool, mode: str) -> Any:
    n, h, w, _ = x.shape
    kh, kw, *channels = kernel.shape
    if mode == SPREAD:
        h, w = 2 * h - 1, 2 * w - 1
    rows, columns = _result(h, padding[0], kh), _result(w, padding[1], kw)
    if mode == UP:
        rows, columns = 2 * rows, 2 * columns
    elif mode in (DOWN, STRIDED):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return x.update(shape=(n, rows, columns, channels[0 if flip else 1]))


def _kernel_gradient_shape(x: Any, slope: Any, *, padding: Padding, mode: str) -> Any:
    covered = {PLAIN: lambda side: side, DOWN: lambda side: 2 * side, STRIDED: lambda side: 2 * side - 1}[
        mode
    ]
    size = (_result(x.shape[i + 1], padding[i], covered(slope.shape[i + 1])) for i in range(2))
    return x.update(shape=(*size, x.shape[3], slope.shape[3]))


def _xla_forward(x: jax.Array, kernel: jax.Array, *, padding: Padding, flip: bool, mode: str) -> jax.Array:
    if flip:
        kernel = _flipped(kernel)
    x = upsample(x) if mode == UP else x
    strides, zeros = (2, 2) if mode == STRIDED else (1, 1), (2, 2) if mode == SPREAD else None
    y = jax.lax.conv_general_dilated(x, kernel, strides, padding, lhs_dilation=zeros, dimension_numbers=NHWC)
    return _sum_pool(y) if mode == DOWN else y


def _xla_kernel_gradient(x: jax.Array, slope: jax.Array, *, padding: Padding, mode: str) -> jax.Array:
    shape = _kernel_gradient_shape(jax.typeof(x), jax.typeof(slope), padding=padding, mode=mode)
    transposed = jax.linear_transpose(
        lambda kernel: _xla_forward(x, kernel, padding=padding, flip=False, mode=mode),
        jax.ShapeDtypeStruct(shape.shape, x.dtype),
    )
    return transposed(slope)[0]


def _smooth_shape(x: Any, *, around: int) -> Any:
    n, h, w, c = x.shape
    return x.update(shape=(n, h + 2 * around - 3, w + 2 * around - 3, c))


def _primitive(
    name: str,
    shape: Callable[..., Any],
    xla: Callable[..., Any],
    attributes: Callable[..., Any],
    *static: str,
) -> Primitive:
    """Makes a primitive with parameters `static`.

    It calls the native `name` on CPU and is what `xla` says elsewhere.
    """

    def on_cpu(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        kernel = name + NATIVE_SUFFIX[ctx.avals_in[0].dtype]
        return jax.ffi.ffi_lowering(kernel)(ctx, *operands, **attributes(**parameters))

    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(xla, multiple_results=False))
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    return primitive


def _attributes(padding: Padding, mode: str, **others: Any) -> dict[str, Any]:
    (top, _), (left, _) = padding
    return {"mode": np.int64(MODES[mode]), "top": np.int64(top), "left": np.int64(left), **others}


forward_p = _primitive("ganjax_forward", _forward_shape, _xla_forward, _attributes, "padding", "flip", "mode")
kernel_gradient_p = _primitive(
    "ganjax_kernel_gradient",
    _kernel_gradient_shape,
    _xla_kernel_gradient,
    _attributes,
    "padding",
    "mode",
)
smooth_p = _primitive(
    "ganjax_smooth", _smooth_shape, _xla_smooth, lambda around: {"around": np.int64(around)}, "around"
)
BACK = {PLAIN: PLAIN, UP: DOWN, DOWN: UP, STRIDED: SPREAD, SPREAD: STRIDED}


def _forward_to_images(
    slope: jax.Array, x: Any, kernel: jax.Array, *, padding: Padding, flip: bool, mode: str
) -> jax.Array:
    return forward(slope, kernel, _back(padding, kernel.shape), flip=not flip, mode=BACK[mode])


def _forward_to_kernel(
    slope: jax.Array, x: jax.Array, kernel: Any, *, padding: Padding, flip: bool, mode: str
) -> jax.Array:
    # ⟨forward(x, k), slope⟩ = ⟨x, the way back(slope, k)⟩, so that either may be taken for the images.
    if mode in (UP, SPREAD) or (flip and mode == PLAIN):
        gradient = kernel_gradient(slope, x, _back(padding, kernel.aval.shape), BACK[mode])
        return gradient if flip else _flipped(gradient)
    gradient = kernel_gradient(x, slope, padding, mode)
    return _flipped(gradient) if flip else gradient


def _gradient_to_images(
    change: jax.Array, x: Any, slope: jax.Array, *, padding: Padding, mode: str
) -> jax.Array:
    return forward(slope, change, _back(padding, change.shape), flip=True, mode=BACK[mode])


def _gradient_to_slope(
    change: jax.Array, x: jax.Array, slope: Any, *, padding: Padding, mode: str
) -> jax.Array:
    return forward(x, change, padding, flip=False, mode=mode)


def _smooth_back(slope: jax.Array, x: Any, *, around: int) -> list[jax.Array]:
    return [smooth_p.bind(slope, around=3 - around)]


ad.deflinear2(smooth_p, _smooth_back)
ad.defbilinear(forward_p, _forward_to_images, _forward_to_kernel)
ad.defbilinear(kernel_gradient_p, _gradient_to_images, _gradient_to_slope)


def _each(
    call: Callable[..., jax.Array], arguments: Sequence[jax.Array], axes: Sequence[Any]
) -> tuple[jax.Array, int]:
    """Computes one member after another: each call fills the machine by itself."""
    moved = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arguments, axes, strict=True)]

    def member(own: Any) -> jax.Array:
        others = iter(own)
        return call(*(a if axis is None else next(others) for a, axis in zip(moved, axes, strict=True)))

    return jax.lax.map(member, [a for a, axis in zip(moved, axes, strict=True) if axis is not None]), 0


def _forward_batched(arguments: Any, axes: Any, **parameters: Any) -> tuple[jax.Array, int]:
    x, kernel = arguments
    if axes[1] is not None:
        return _each(lambda x, kernel: forward_p.bind(x, kernel, **parameters), arguments, axes)
    x = jnp.moveaxis(x, axes[0], 0)
    y = forward_p.bind(x.reshape(-1, *x.shape[2:]), kernel, **parameters)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _kernel_gradient_batched(arguments: Any, axes: Any, **parameters: Any) -> tuple[jax.Array, int]:
    return _each(lambda x, slope: kernel_gradient_p.bind(x, slope, **parameters), arguments, axes)


batching.primitive_batchers[forward_p] = _forward_batched
batching.primitive_batchers[kernel_gradient_p] = _kernel_gradient_batched


def _smooth_batched(arguments: Any, axes: Any, *, around: int) -> tuple[jax.Array, int]:
    x = jnp.moveaxis(arguments[0], axes[0], 0)
    y = smooth_p.bind(x.reshape(-1, *x.shape[2:]), around=around)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


batching.primitive_batchers[smooth_p] = _smooth_batched
