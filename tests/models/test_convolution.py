"""The convolutions: the native kernels against XLA's, through every transformation, and doing without them."""

import errno
import functools
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from ganjax.models.layers import convolution, native
from ganjax.models.layers.equalized import convolve_down, convolve_up

ROUNDING = 1e-5  # of the largest value: float32 sums of up to 8,448 products in another order

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=f"native kernels: {native.why_not()}")

# images, height, width, inputs, outputs, kernel, padding: every path of convolution.cc
SHAPES = [
    (3, 8, 8, 5, 7, (3, 3), "SAME"),
    (5, 4, 4, 128, 128, (3, 3), "SAME"),  # two rows a tile
    (66, 4, 4, 33, 65, (3, 3), "SAME"),  # several images a block, a last vector of one
    (2, 32, 32, 3, 64, (3, 3), "SAME"),
    (2, 33, 19, 64, 3, (3, 3), "SAME"),  # few outputs, widths that no tile divides
    (2, 16, 16, 70, 1, (1, 1), "SAME"),
    (2, 16, 16, 40, 4, (3, 3), "SAME"),
    (2, 17, 17, 16, 20, (1, 1), "VALID"),
    (3, 9, 7, 8, 17, (2, 2), ((0, 1), (0, 1))),
    (3, 6, 5, 4, 48, (4, 4), "VALID"),
    (2, 70, 66, 8, 16, (3, 3), ((2, 0), (1, 2))),
    (1, 1, 2, 3, 5, (3, 5), "SAME"),
    (2, 6, 6, 4, 6, (1, 1), ((2, 1), (1, 2))),  # more zeros than the kernel is wide
]


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def xla(x, kernel, padding):
    with native.portable():
        return convolution.convolve(x, kernel, padding)


def assert_same(actual, expected, bound=ROUNDING):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=bound * max(1e-6, float(jnp.abs(b).max()))
        ),
        actual,
        expected,
    )


def lowered(call, *arguments):
    return jax.jit(call).lower(*arguments).as_text()


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_convolutions_and_both_gradients_are_those_of_xla(shape):
    n, h, w, inputs, outputs, size, padding = shape
    x, kernel = draw(n, h, w, inputs), draw(*size, inputs, outputs)

    def both(x, kernel, convolve):
        y, back = jax.vjp(lambda x, kernel: convolve(x, kernel, padding), x, kernel)
        return y, *back(draw(*y.shape))

    assert_same(both(x, kernel, convolution.convolve), both(x, kernel, xla))


RESAMPLED = [(3, 4, 6, 5, 7), (2, 16, 16, 64, 48), (5, 8, 8, 33, 3), (2, 14, 10, 3, 20), (1, 2, 2, 1, 1)]


@needs_native
@pytest.mark.parametrize("resample", [convolution.UP, convolution.DOWN])
@pytest.mark.parametrize("shape", RESAMPLED, ids=str)
def test_joined_resampling_is_that_before_or_after_the_convolution(shape, resample):
    n, h, w, inputs, outputs = shape
    x, kernel = draw(n, h, w, inputs), draw(3, 3, inputs, outputs)

    def both(x, kernel, call):
        y, back = jax.vjp(call, x, kernel)
        return y, *back(draw(*y.shape))

    def plain(x, kernel):
        if resample == convolution.UP:
            return xla(convolution.upsample(x), kernel, "SAME")
        return convolution.downsample(xla(x, kernel, "SAME"))

    joined = both(x, kernel, lambda x, kernel: convolution.convolve(x, kernel, resample=resample))
    assert_same(joined, both(x, kernel, plain))


@needs_native
@pytest.mark.parametrize("shape", RESAMPLED, ids=str)
@pytest.mark.parametrize("call", [convolve_down, convolve_up], ids=lambda f: f.__name__)
def test_strided_and_spread_convolutions_are_those_by_xla(shape, call):
    n, h, w, inputs, outputs = shape
    x, kernel = draw(n, h, w, inputs), draw(3, 3, inputs, outputs)

    def both():
        y, back = jax.vjp(call, x, kernel)
        return y, *back(draw(*y.shape))

    actual = both()
    with native.portable():
        assert_same(actual, both())


def derived(call, x, kernel):
    """The result, and the gradients of the images and of the kernel, in float32."""
    y, back = jax.vjp(call, x, kernel)
    slope = draw(*y.shape).astype(jnp.bfloat16).astype(y.dtype)
    return [a.astype(jnp.float32) for a in (y, *back(slope))]


def halved(x, kernel):
    return x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)


def assert_rounded(call, x, kernel, bound):
    """bfloat16 by the native kernels against XLA's float32 with the same rounded images and kernel."""
    x, kernel = halved(x, kernel)
    text = lowered(lambda x, kernel: derived(call, x, kernel), x, kernel)
    assert text.count("_half") == 3 and "convolution(" not in text
    with native.portable():
        expected = derived(call, x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert_same(derived(call, x, kernel), expected, bound)


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_is_added_up_in_float32(shape):
    n, h, w, inputs, outputs, size, padding = shape
    call = lambda x, kernel: convolution.convolve(x, kernel, padding)
    assert_rounded(call, draw(n, h, w, inputs), draw(*size, inputs, outputs), 2**-8)


@needs_native
@pytest.mark.parametrize("shape", RESAMPLED[:3], ids=str)
@pytest.mark.parametrize("mode", ["up", "down", "spread", "strided"])
def test_bfloat16_with_resampling_rounds_the_kernel_once_more(shape, mode):
    n, h, w, inputs, outputs = shape
    call = {"spread": convolve_up, "strided": convolve_down}.get(mode)
    call = call or (lambda x, kernel: convolution.convolve(x, kernel, resample=mode))
    assert_rounded(call, draw(n, h, w, inputs), draw(3, 3, inputs, outputs), 2**-6)


@needs_native
def test_nan_and_infinity_stay_what_they_are_in_bfloat16():
    x, kernel = halved(draw(1, 4, 4, 3), jnp.ones((1, 1, 3, 20)))
    y = convolution.convolve(x.at[0, 1, 2, 0].set(jnp.nan).at[0, 3, 0, 1].set(jnp.inf), kernel)
    assert bool(jnp.isnan(y[0, 1, 2]).all()) and bool((y[0, 3, 0] == jnp.inf).all())
    assert np.isfinite(np.asarray(y[0, 0], np.float32)).all()


@needs_native
@pytest.mark.slow
def test_bfloat16_where_the_processor_has_no_instructions_for_it(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo old && exit\nexec c++ "$@" -mno-avx512bf16 -O1\n'
    )
    compiler.chmod(0o755)
    own = "bfloat16 and not no_instructions"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", own],
        env={**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "ganjax" / "native").iterdir())) == 1
    assert "skipped" not in done.stdout


def same_resampled(mode):
    return lambda x, kernel: convolution.convolve(x, kernel, "SAME", mode)


@needs_native
@pytest.mark.parametrize(
    ("call", "side"),
    [
        (same_resampled(convolution.PLAIN), 8),
        (same_resampled(convolution.UP), 16),
        (same_resampled(convolution.DOWN), 4),
        (convolve_up, 16),
        (convolve_down, 4),
    ],
    ids=["plain", "up", "down", "spread", "strided"],
)
def test_every_second_derivative_is_that_of_xla(call, side):
    x, kernel, slope = draw(4, 8, 8, 6), draw(3, 3, 6, 20), draw(4, side, side, 20)

    def totals(x, kernel, slope):
        def energy(x, kernel, slope):
            return jnp.sum(call(x, kernel) * slope)

        gradients = jax.grad(energy, (0, 1, 2))(x, kernel, slope)
        return sum(jnp.sum(jnp.sin(0.1 * g)) for g in gradients)

    @functools.partial(jax.jit, static_argnums=0)  # whose programs are not shared with the portable ones
    def derivatives(portable):
        backwards = jax.grad(totals, (0, 1, 2))(x, kernel, slope)
        _, forwards = jax.jvp(totals, (x, kernel, slope), (x[::-1], kernel, slope))
        _, mixed = jax.jvp(jax.grad(totals, (0, 1, 2)), (x, kernel, slope), (x[::-1], kernel, slope))
        return backwards, forwards, mixed

    actual = derivatives(False)
    with native.portable():
        assert_same(actual, derivatives(True))


@needs_native
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", list(convolution.MODES))
def test_what_other_platforms_do_is_what_the_native_kernels_do(mode, flip):
    sides = (7, 9) if mode == convolution.STRIDED else (6, 8)
    x, kernel = draw(3, *sides, 5), draw(3, 3, 5, 7)
    around = convolution.PADDING.get(mode, convolution.ONE)
    kernel = kernel.swapaxes(2, 3) if flip else kernel
    given = {"padding": around, "flip": flip, "mode": mode}
    assert_same(convolution.forward(x, kernel, **given), convolution._xla_forward(x, kernel, **given))
    if mode in (convolution.PLAIN, convolution.DOWN, convolution.STRIDED):
        slope = draw(3, 6, 8, 7) if mode == convolution.PLAIN else draw(3, 3, 4, 7)
        given = {"padding": around, "mode": mode}
        expected = convolution._xla_kernel_gradient(x, slope, **given)
        assert_same(convolution.kernel_gradient(x, slope, **given), expected)


@needs_native
@pytest.mark.parametrize("axes", [(0, None), (3, None), (None, 0), (0, 4)], ids=str)
def test_vmap_is_a_loop_over_members(axes):
    members = 3
    x = jnp.moveaxis(draw(members, 2, 8, 8, 4), 0, axes[0]) if axes[0] is not None else draw(2, 8, 8, 4)
    kernel = jnp.moveaxis(draw(members, 3, 3, 4, 5), 0, axes[1]) if axes[1] is not None else draw(3, 3, 4, 5)

    def gradients(convolve):
        one = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, "SAME"))), (0, 1))
        return jax.vmap(one, axes)(x, kernel)

    assert_same(gradients(convolution.convolve), gradients(xla))


@needs_native
def test_it_runs_on_every_device_of_a_mesh():
    devices = jax.devices()[:2]
    x, kernel = draw(2 * len(devices), 8, 8, 4), draw(3, 3, 4, 5)
    mapped = jax.shard_map(
        lambda x, kernel: convolution.convolve(x, kernel),
        mesh=Mesh(np.array(devices), ("devices",)),
        in_specs=(PartitionSpec("devices"), PartitionSpec()),
        out_specs=PartitionSpec("devices"),
    )
    assert_same(jax.jit(mapped)(x, kernel), xla(x, kernel, "SAME"))


@needs_native
def test_the_same_bits_whatever_the_number_of_threads():
    code = """
import numpy as np, jax, jax.numpy as jnp, hashlib
from ganjax.models.layers import convolution
r = np.random.default_rng(0)
x, k = (jnp.asarray(r.normal(size=s), jnp.float32) for s in ((9, 16, 16, 20), (3, 3, 20, 35)))
bits = b""
for precision in (jnp.float32, jnp.bfloat16):
    y, back = jax.vjp(convolution.convolve, x.astype(precision), k.astype(precision))
    bits += b"".join(np.asarray(a).tobytes() for a in (y, *back(jnp.cos(y))))
print(hashlib.sha256(bits).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PJRT_NPROC": threads},
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2", "7")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


@needs_native
def test_what_leaves_the_machine_and_what_does_not_fit_is_xlas():
    x, kernel = draw(1, 8, 8, 4), draw(3, 3, 4, 5)
    assert "ganjax_forward" in lowered(lambda x, k: convolution.convolve(x, k), x, kernel)
    for call, arguments in [
        (lambda x, k: xla(x, k, "SAME"), (x, kernel)),
        (lambda x, k: convolution.convolve(x, k), (x.astype(jnp.float16), kernel.astype(jnp.float16))),
        (lambda x, k: convolution.convolve(x, k, ((-1, 1), (1, 1))), (x, kernel)),
        (
            nn.Conv(
                5, (3, 3), strides=2, conv_general_dilated=convolution.conv_general_dilated
            ).init_with_output,
            None,
        ),
    ]:
        arguments = arguments or (jax.random.key(0), x)
        text = lowered(call, *arguments)
        assert "ganjax_forward" not in text
        assert "convolution" in text


@needs_native
def test_other_platforms_get_xlas_operations():
    x, kernel = draw(2, 8, 8, 4), draw(3, 3, 4, 5)
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(convolution.convolve(x, k) ** 2)))
    text = gradient.trace(kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert "ganjax" not in text
    assert text.count("stablehlo.convolution") == 2


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"GANJAX_NATIVE": "off"}, "as GANJAX_NATIVE asks"),
        ({"PATH": ""}, "no C++ compiler"),
        ({"CXX": "false"}, "could not compile"),
    ],
)
def test_without_native_kernels_the_numbers_are_the_same(tmp_path, environment, reason):
    code = """
import jax.numpy as jnp
from ganjax.models.layers import native
from ganjax.models.layers import convolution
print(float(convolution.convolve(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 5))).sum()), native.why_not())
"""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )
    assert finished.stdout.startswith("9680.0 "), finished.stderr
    assert reason in finished.stdout
    assert not list(tmp_path.rglob("*.so"))


@needs_native
def test_only_a_whole_library_of_this_user_is_loaded_from_the_cache(tmp_path, monkeypatch):
    """All else is made anew: a cut file would end the process, and another user's code is not ours to run."""
    whole = Path(native._library()._name).read_bytes()
    folder, made = tmp_path / "ganjax" / "native", []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_compile", lambda command, to: (made.append(to), to.write_bytes(whole)))

    def kept():
        """Loads the library; returns the file in the cache."""
        native._loaded.__wrapped__()
        [file] = folder.glob("*.so")
        assert file.read_bytes() == whole and file.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        return file

    file = kept()
    kept()
    assert len(made) == 1
    file.write_bytes(whole[:4096])
    kept()
    file.chmod(0o666)
    folder.chmod(0o777)
    kept()
    assert len(made) == 3
    if os.geteuid() == 0:
        os.chown(file, 1234, -1)
        kept()
        assert len(made) == 4
        os.chown(folder, 1234, -1)
        file.unlink()
        native._loaded.__wrapped__()
        assert len(made) == 5 and not list(folder.iterdir())
        assert folder.stat().st_mode & 0o777 == 0o700


@needs_native
def test_a_full_disk_costs_the_cache_and_not_the_kernels(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = Path(native._library()._name).read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_compile", lambda command, to: to.write_bytes(whole))
    monkeypatch.setattr(native, "replace_file", full)
    assert hasattr(native._loaded.__wrapped__(), "GanjaxForward")


@needs_native
@pytest.mark.parametrize(("platforms", "built"), [("cpu", 1), ("cuda", 0)])
def test_they_are_compiled_ahead_where_only_a_cpu_is_meant(tmp_path, platforms, built):
    code = """
import threading
from ganjax.models.layers import native
calls = []
compile = native._compile
native._compile = lambda *given: (calls.append(given), compile(*given))
native.begin()
if native.jax.config.jax_platforms == "cpu":
    assert native.why_not() is None  # waits for what has begun
[thread.join() for thread in threading.enumerate() if thread.name == "native convolutions"]
print(len(calls))
"""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
    )
    assert finished.stdout == f"{built}\n", finished.stderr
    assert len(list(tmp_path.rglob("*.so"))) == built
    assert [file.suffix for file in tmp_path.glob("ganjax/native/*")] == [".so"] * built
