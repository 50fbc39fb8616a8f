"""Every network family keeps the contract: shapes, tuple of scales, labels, gradients everywhere, precision."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import FAMILIES, QUICK, awake, config_of, data_of, initialise, inputs_of, pair, scales_of
from small import run_steps, small_config

import ganjax.training.parallel
from ganjax.config import recipe as configs
from ganjax.config.rules import own_norm
from ganjax.data import Dataset
from ganjax.models import MODELS
from ganjax.models.base import channels, levels
from ganjax.models.latents import make_latents
from ganjax.models.layers.layers import MinibatchDiscrimination, minibatch_stddev, pixel_norm
from ganjax.runtime.errors import UserError
from ganjax.training.build import image_sides, make_networks

PHI = ("none", "simple", "lin_cat", "cat_lin")
# The sizes that a CPU trains at in any run of the tests, the others in CI's long one.
ALL = [
    pytest.param(name, resolution, msg, classes, marks=[] if resolution == 16 else pytest.mark.slow)
    for name in FAMILIES
    for resolution in MODELS[name].resolutions
    for msg in (("none", "cat_lin") if len(MODELS[name].sides(resolution)) > 1 else ("none",))
    for classes in (0, 5)
]


def test_levels_and_channels():
    assert levels(8) == (4, 8)
    assert levels(128) == (4, 8, 16, 32, 64, 128)
    assert [channels(32, size, 64, 512) for size in levels(32)] == [512, 256, 128, 64]
    assert channels(128, 4, 64, 512) == 512


@pytest.mark.parametrize(("name", "resolution", "msg", "classes"), ALL)
def test_shapes_of_every_scale(name, resolution, msg, classes):
    config, gen, dis, sides = pair(name, resolution, msg, classes)
    latents = jax.ShapeDtypeStruct((4, config.model.latent_dim), jnp.float32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = lambda net: lambda k, x, y: net.init_with_output(k, x, y, train=True)
    images, gen_vars = jax.eval_shape(init(gen), key, latents, labels)
    logits, dis_vars = jax.eval_shape(init(dis), key, images, labels)
    assert sides[-1] == resolution and len(sides) == (1 if msg == "none" else len(sides))
    assert len(sides) == 1 or sides == tuple(sides[0] << i for i in range(len(sides)))
    assert [(image.shape, image.dtype) for image in images] == [((4, s, s, 3), jnp.float32) for s in sides]
    assert (logits.shape, logits.dtype) == ((4,), jnp.float32)
    # The coarsest image is that of the first map, or of the first block: of at most 6 or 8 pixels for these sizes.
    assert sides[0] <= (2 * 6 if name in ("resnet", "biggan", "biggan_deep") else 6) or msg == "none"
    tables = [p for p in jax.tree_util.tree_leaves_with_path((gen_vars, dis_vars)) if p[1].shape[:1] == (5,)]
    assert bool(tables) >= bool(classes)


SCALES = [(name, "none", 0) for name in FAMILIES] + [(name, "cat_lin", 3) for name in FAMILIES]
SCALES += [
    ("dcgan", "simple", 0),
    ("progan", "lin_cat", 3),
    ("stylegan2", "simple", 0),
    ("r3gan", "lin_cat", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "msg", "classes"), SCALES)
def test_gradient_reaches_every_parameter_and_scale(name, msg, classes):
    resolution = 16
    options = {"model__attention": 8} if name in ("resnet", "biggan", "biggan_deep") else {}
    config, gen, dis, sides = pair(name, resolution, msg, classes, gen__width=16, dis__width=16, **options)
    latents, images, labels = inputs_of(config, sides, 6, classes)
    gen_vars, dis_vars = map(awake, initialise(gen, dis, latents, images, labels))
    weights = jnp.arange(1.0, 7.0)

    def loss(gen_params, dis_params, offsets):
        variables = {**gen_vars, "params": gen_params}
        images, _ = gen.apply(variables, latents, labels, train=True, mutable=["batch_stats"])
        images = tuple(x + o for x, o in zip(images, offsets, strict=True))
        logits = dis.apply({**dis_vars, "params": dis_params}, images, labels, train=True)
        return jnp.sum(jnp.square(logits) * weights)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), compiler_options=QUICK)
    grads = gradient(gen_vars["params"], dis_vars["params"], tuple(jnp.zeros_like(x) for x in images))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        where = jax.tree_util.keystr(path)
        if config.gen.norm == "batch" and where.startswith("[0]") and "bias" in where:
            continue  # a bias before a normalisation over the batch is cancelled by it, by construction
        assert float(jnp.max(jnp.abs(leaf))) > 0, where


@pytest.mark.parametrize("norm", ["batch", "group", "pixel", "none"])
def test_norms_of_dcgan_let_gradients_through(norm):
    config, gen, dis, sides = pair("dcgan", 8, "simple", gen__norm=norm, gen__depth=2, dis__depth=2)
    latents, images, labels = inputs_of(config, sides)
    gen_vars, dis_vars = initialise(gen, dis, latents, images, labels)
    stats = {k: v for k, v in gen_vars.items() if k != "params"}

    def loss(params):
        images, _ = gen.apply({"params": params, **stats}, latents, train=True, mutable=list(stats))
        return jnp.sum(dis.apply(dis_vars, images, train=True))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(gen_vars["params"])):
        if norm != "batch" or "bias" not in jax.tree_util.keystr(path):
            assert float(jnp.max(jnp.abs(leaf))) > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters(name):
    results = []
    for precision in ("float32", "bfloat16"):
        config, gen, dis, sides = pair(name, 16, "simple", 3, train__precision=precision)
        latents, images, labels = inputs_of(config, sides, 4, 3)
        gen_vars, dis_vars = initialise(gen, dis, latents, images, labels)
        assert {leaf.dtype for leaf in jax.tree.leaves((gen_vars, dis_vars))} == {jnp.dtype("float32")}
        with jax.numpy_dtype_promotion("standard"):  # Flax's batch norm mixes bfloat16 with float32
            made = gen.apply(gen_vars, latents, labels, train=False)
        logits = dis.apply(dis_vars, images, labels, train=False)
        assert all(x.dtype == jnp.float32 for x in (*made, logits))
        results.append((made[-1], logits))
    for exact, rounded in zip(*results, strict=True):
        np.testing.assert_allclose(rounded, exact, atol=0.1 * float(jnp.max(jnp.abs(exact))))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_step_trains_each_family_and_is_traced_once(name, monkeypatch):
    """With labels, scales and a gradient penalty: three steps of the real program, of which only one is traced."""
    traced = []
    step = ganjax.training.parallel.train_step
    monkeypatch.setattr(ganjax.training.parallel, "train_step", lambda *a: traced.append(name) or step(*a))
    options = {"gen__norm": own_norm(name) or "batch", "gen__style_dim": 8, "gen__mapping_layers": 2}
    options["model__msg"] = scales_of(name)
    config = small_config(model__name=name, model__conditional=True, penalty__name="r1", **options)
    made, state, rows = run_steps(config, steps=3)
    assert made.classes == 10 and len(traced) == 1
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    first = jax.device_get(made.init())
    for before, after in ((first.gen, state.gen), (first.dis, state.dis)):
        leaves = zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
        # D's last bias may rest: while the hinge binds, the slopes of reals and fakes by it add up to nothing.
        assert all(np.abs(a - b).max() > 0 for a, b in leaves if a.size > 1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "dcgan" else pytest.mark.slow) for name in FAMILIES]
)
def test_blocks_computed_anew_give_the_same_gradients_under_the_same_names(name):
    """Of D's answers and a penalty on them, by every parameter, with spectral norms and statistics that move."""
    spectral = {f"{net}__spectral_norm": name != "stylegan2" for net in ("gen", "dis")}
    config, *nets, sides = pair(name, 8, scales_of(name), 3, **spectral)
    latents, images, labels = inputs_of(config, sides, 4, 3)
    variables = initialise(*nets, latents, images, labels)

    def gradients(gen, dis):
        fixed = [{k: v for k, v in vars_.items() if k != "params"} for vars_ in variables]

        def loss(params):
            made, stats = gen.apply(
                {"params": params[0], **fixed[0]}, latents, labels, train=True, mutable=list(fixed[0])
            )

            def answers(images):
                own = {"params": params[1], **fixed[1]}
                logits, moved = dis.apply(own, images, labels, train=True, mutable=list(fixed[1]))
                return jnp.sum(logits), moved

            (total, moved), slopes = jax.value_and_grad(answers, has_aux=True)(made)
            return total + sum(jnp.sum(jnp.square(slope)) for slope in slopes), (stats, moved)

        differentiated = jax.grad(loss, has_aux=True)
        start = [awake(vars_)["params"] for vars_ in variables]
        blocks = str(jax.make_jaxpr(differentiated)(start)).count("remat2[")
        return jax.jit(differentiated, compiler_options=QUICK)(start), blocks

    remade_nets = [net.clone(remat=True) for net in nets]
    for net, inputs, wanted in zip(remade_nets, (latents, images), variables, strict=True):
        made = jax.eval_shape(lambda x, net=net: net.init(jax.random.key(0), x, labels, train=True), inputs)
        made.pop("intermediates", None)
        assert made == jax.eval_shape(lambda wanted=wanted: wanted)
    (plain, none), (remade, several) = gradients(*nets), gradients(*remade_nets)
    assert none == 0 and several >= 2 * (len(levels(8)) - 1)  # in both networks
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(plain[0]))
    assert jax.tree.structure(plain) == jax.tree.structure(remade)
    for (path, wanted), found in zip(
        jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(remade), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * largest, err_msg=str(path))


def test_which_scales_connect():
    sides = {
        choice: image_sides(config_of("progan", "simple", model__msg_scales=choice), data_of(128))
        for choice in ("all", "coarse", "middle", "fine")
    }
    assert sides == {
        "all": (4, 8, 16, 32, 64, 128),
        "coarse": (4, 8, 128),
        "middle": (16, 32, 128),
        "fine": (64, 128),
    }
    with pytest.raises(UserError, match="connects scales of 64 to inf"):
        image_sides(config_of("progan", "simple", model__msg_scales="fine"), data_of(32))
    config, gen, dis, chosen = pair("progan", 32, "simple", model__msg_scales="middle")
    latents, images, labels = inputs_of(config, chosen)
    assert [x.shape[1] for x in images] == [16, 32]
    gen_vars, dis_vars = initialise(gen, dis, latents, images, labels)
    assert [x.shape[1] for x in gen.apply(gen_vars, latents, labels, train=True)] == [16, 32]
    slope = jax.grad(lambda x: jnp.sum(dis.apply(dis_vars, x, labels, train=True)))(images)
    assert all(float(jnp.max(jnp.abs(s))) > 0 for s in slope)


def test_sides_that_a_family_cannot_make():
    with pytest.raises(UserError, match=r"dcgan makes square images of 8, 16, 32, 64 or 128 pixels.*28×28"):
        image_sides(config_of("dcgan"), data_of(28))


def test_truncated_latents_lie_within_the_bounds():
    keys = jax.random.split(jax.random.key(0), 500)
    assert float(jnp.max(jnp.abs(make_latents(8, "normal", 0.5)(keys)))) <= 0.5
    assert 0.45 < float(jnp.max(jnp.abs(make_latents(8, "uniform", 0.5)(keys)))) <= 0.5
    length = jnp.linalg.norm(make_latents(8, "sphere", 0.5)(keys), axis=1)
    np.testing.assert_allclose(length, np.full(500, 8**0.5), rtol=1e-5)
    np.testing.assert_array_equal(make_latents(8, "normal", 1.0)(keys), make_latents(8, "normal")(keys))


def test_labels_change_points_too():
    config = configs.default_config()
    for key, value in {
        "model.name": "mlp",
        "data.name": "ring",
        "gen.norm": "none",
        "model.conditional": True,
    }.items():
        configs.set_option(config, key, value)
    points = np.zeros((4, 2), np.float32)
    gen, dis = make_networks(config, Dataset("ring", points, np.arange(4, dtype=np.int32), 4), None)
    latents = jnp.ones((4, config.model.latent_dim))
    gen_vars, dis_vars = initialise(gen, dis, latents, (jnp.ones((4, 2)),), jnp.arange(4))
    (made,) = gen.apply(gen_vars, latents, jnp.arange(4), train=False)
    assert len(np.unique(np.asarray(made)[:, 0])) == 4
    logits = dis.apply(dis_vars, (jnp.ones((4, 2)),), jnp.arange(4), train=False)
    assert len(np.unique(np.asarray(logits))) == 4


def test_minibatch_stddev_against_numpy_and_over_split_batches():
    x = np.random.default_rng(0).normal(size=(8, 3, 3, 5)).astype(np.float32)
    out = np.asarray(minibatch_stddev(jnp.asarray(x)))
    np.testing.assert_array_equal(out[..., :5], x)
    for start in (0, 4):
        deviation = np.sqrt(x[start : start + 4].var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(out[start : start + 4, ..., 5], deviation, rtol=1e-5)
    halves = [np.asarray(minibatch_stddev(jnp.asarray(x[i : i + 4]))) for i in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(halves), out)


def test_the_group_of_the_deviation_is_an_option():
    """With groups of 2 the first two images of a batch do not mind what the next two are."""
    config, gen, dis, sides = pair("dcgan", 16, dis__stddev_group=2)
    latents, images, labels = inputs_of(config, sides)
    _, variables = initialise(gen, dis, latents, images, labels)
    judge = jax.jit(lambda x: dis.apply(variables, x, labels, train=True))
    logits, others = judge(images), judge(tuple(x.at[2:].set(0.0) for x in images))
    np.testing.assert_array_equal(logits[:2], others[:2])
    assert float(jnp.min(jnp.abs(logits[2:] - others[2:]))) > 1e-4


def test_minibatch_discrimination_against_numpy():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    layer = MinibatchDiscrimination(kernels=3, dims=2, group_size=4)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    m = (x @ np.asarray(variables["params"]["kernel"])).reshape(4, 3, 2)
    expected = np.zeros((4, 3))
    for i, j in itertools.permutations(range(4), 2):
        expected[i] += np.exp(-np.abs(m[i] - m[j]).sum(axis=-1))
    out = np.asarray(layer.apply(variables, jnp.asarray(x)))
    np.testing.assert_allclose(out[:, 6:], expected, rtol=1e-4)


def test_pixel_norm_has_unit_mean_square():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 7)) * 5
    np.testing.assert_allclose(jnp.mean(jnp.square(pixel_norm(x)), axis=-1), np.ones((2, 3, 3)), rtol=1e-5)
