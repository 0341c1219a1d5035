"""The theorem about warped features, as tests; and how it is measured."""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import INPUT, Family, Geometry
from stnjax.paper import classifiers
from stnjax.placement import networks

RNG = np.random.default_rng(0)


def convolve(images, kernel, stride=1, padding="VALID", **options):
  return lax.conv_general_dilated(
    images,
    jnp.asarray(kernel, images.dtype),
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    **options,
  )


def conv(kernel, *args, **options):
  """A convolution as a function of images."""
  return lambda images: convolve(images, kernel, *args, **options)


def relu_of(features):
  return lambda images: jax.nn.relu(features(images))


def blobs(size=24, count=6, seed=0):
  """Smooth, varied images on black, which no border cuts."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  images = np.zeros((count, size, size, 1))
  for image in images:
    for _ in range(5):
      angle, length = rng.uniform(0, np.pi), rng.uniform(1.2, 3)
      middle = rng.uniform(-size / 5, size / 5, 2)
      u = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle)
      v = (y - middle[1]) * np.cos(angle) - (x - middle[0]) * np.sin(angle)
      image[..., 0] += np.exp(-((u / length) ** 2) / 2 - v**2 / 2)
  return jnp.asarray(images, jnp.float32)


def kernels(size, filters, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(size, size, 1, filters)) / size


def gaussian(size, width):
  x = np.arange(size) - (size - 1) / 2
  squares = x[:, None] ** 2 + x**2
  return np.exp(-squares / 2 / width**2)[..., None, None]


def turned(bank):
  """Each filter `[k, k, 1, F]` by four quarter turns: `[k, k, 1, 4 F]`."""
  return np.concatenate([np.rot90(bank, i) for i in range(4)], axis=-1)


def one(name, *magnitudes):
  """A family of the defaults, by other magnitudes."""
  return {name: alignability.FAMILIES[name]._replace(magnitudes=magnitudes)}


def audit(features, images=None, families=None, **options):
  images = blobs() if images is None else images
  options = {"steps": 0, "margin": 14, **options}
  families = families or alignability.FAMILIES
  return alignability.audit(features, images, families=families, **options)


def means(found, family, layer="features"):
  """The mean over images of each residual, `[M]`, and the floor."""
  residuals = found.residuals[layer][family]
  floor = found.residuals[INPUT][family].aligned.mean(axis=1)
  return [np.mean(value, axis=-1) for value in residuals[:4]], floor


# Whole pixels and quarter turns of squares copy pixels: nothing but rounding.
ROUNDING = 1e-5


# What the theorem says.


def test_whole_strides_align_exactly():
  strides = {
    f"{stride}": relu_of(conv(kernels(5, 4), stride)) for stride in (1, 2, 4)
  }

  def features(images):
    return {name: one(images) for name, one in strides.items()}

  found = audit(features, families=one("translation", 4.0, 8.0))
  for stride in strides:
    (unaligned, *left), floor = means(found, "translation", stride)
    assert floor.max() < ROUNDING
    assert np.max(left) < ROUNDING
    assert unaligned.min() > 0.3


def test_parts_of_strides_do_not_align_exactly():
  features = relu_of(conv(kernels(5, 4), 4))
  found = audit(features, families=one("translation", 1.0, 2.0), steps=20)
  (_, _, best, _), floor = means(found, "translation")
  assert floor.max() < ROUNDING
  assert best.min() > 0.05


def test_generic_filters_do_not_align_under_quarter_turns():
  features = relu_of(conv(kernels(5, 4)))
  found = audit(features, families=one("rotation", 90.0), steps=40)
  (_, aligned, best, mixed), floor = means(found, "rotation")
  assert floor < ROUNDING
  assert aligned > 0.5
  assert best > 0.3  # no other warp does either
  assert mixed > 0.2  # and the channels are not there


def test_a_bank_closed_under_turns_aligns_once_channels_are_permuted():
  bank = turned(kernels(5, 3))
  features = relu_of(conv(bank))
  images = blobs()
  found = audit(features, images, one("rotation", 90.0))
  (_, aligned, best, mixed), floor = means(found, "rotation")
  assert floor < ROUNDING
  assert min(aligned, best) > 0.3
  # Least squares finds the permutation, from moments in single precision.
  assert mixed < np.sqrt(np.finfo(np.float32).eps)

  # The object turns clockwise, so that filter i answers as i + 1 did.
  def permuted(images):
    return features(images).reshape(*images.shape[:1], 20, 20, 4, 3)

  matrix = alignability.FAMILIES["rotation"].matrix(jnp.float32(90))
  before = permuted(images)
  after = permuted(alignability.transformed(images, matrix))
  back = jnp.rot90(after, 1, axes=(1, 2))
  for shift in range(4):
    left = jnp.abs(jnp.roll(back, shift, axis=3) - before).max()
    assert (left < 1e-5) == (shift == 1), shift


def test_mirrors_exchange_channels_too():
  mirror = Family(
    lambda x: jnp.array([[-1.0, 0, 0], [0, 1, 0]]) * x, (1.0,), ""
  )
  bank = kernels(5, 3)
  closed = np.concatenate([bank, bank[:, ::-1]], axis=-1)
  even = bank + bank[:, ::-1]
  banks = {"generic": bank, "closed": closed, "even": even}

  def features(images):
    return {name: conv(bank)(images) for name, bank in banks.items()}

  found = audit(features, families={"mirror": mirror})
  for name in ("generic", "closed"):
    (_, aligned, best, mixed), _ = means(found, "mirror", name)
    assert min(aligned, best) > 0.3
    assert (mixed < 1e-3) == (name == "closed")
  assert found.residuals["even"]["mirror"].aligned.max() < ROUNDING


def test_isotropic_filters_align_under_rotation():
  bank = np.concatenate([gaussian(9, 1.0), gaussian(9, 1.5)], axis=-1)
  found = audit(conv(bank), families=one("rotation", 20.0, 45.0, 90.0))
  (unaligned, aligned, *_), floor = means(found, "rotation")
  assert (aligned <= floor + ROUNDING).all()  # smooth: interpolated better
  assert unaligned.min() > 0.2


@pytest.mark.parametrize(
  "family", ["scale", pytest.param("shear", marks=pytest.mark.slow)]
)
def test_scaling_and_shear_leave_even_isotropic_filters_behind(family):
  magnitudes = alignability.FAMILIES[family].magnitudes[1:]
  difference = gaussian(9, 1.0) / gaussian(9, 1.0).sum()
  difference = difference - gaussian(9, 2.0) / gaussian(9, 2.0).sum()
  found = audit(conv(difference), families=one(family, *magnitudes), steps=40)
  (_, aligned, best, mixed), floor = means(found, family)
  for left in (aligned, best, mixed):
    assert (left > 2 * floor).all()
  assert (np.diff(aligned) > 0).all()


def test_what_is_pointwise_is_invariant_and_aligns_as_the_image_does():
  found = audit(conv(kernels(1, 5)), steps=0)
  for name, residuals in found.residuals["features"].items():
    floor = found.residuals[INPUT][name]
    np.testing.assert_allclose(residuals.aligned, floor.aligned, atol=1e-6)
    np.testing.assert_allclose(residuals.unaligned, floor.unaligned, rtol=1e-4)


def test_training_towards_invariance_aligns():
  """The residual is a loss: descending it makes filters invariant."""
  images = blobs()
  kernel = jnp.asarray(kernels(5, 2), jnp.float32)
  matrix = alignability.FAMILIES["rotation"].matrix(jnp.float32(90))
  (geometry,) = alignability.probe(conv(kernel), images).values()

  @jax.jit
  @jax.value_and_grad
  def loss(kernel):
    return alignability.residual(
      relu_of(conv(kernel)), images, matrix, geometry=geometry
    ).mean()

  start, _ = loss(kernel)
  for _ in range(60):
    value, gradient = loss(kernel)
    kernel -= 0.05 * gradient
  assert start > 0.5
  assert value < start / 5


# How it is measured.


@pytest.mark.parametrize(
  "features, first, step, reach",
  [
    (conv(kernels(3, 2)), 1, 1, 1),
    (conv(kernels(3, 2), padding="SAME"), 0, 1, 1),
    (conv(kernels(4, 2)), 1.5, 1, 1.5),
    (conv(kernels(5, 2), stride=3), 2, 3, 2),
    (conv(kernels(3, 2), rhs_dilation=(2, 2)), 2, 1, 2),
    (conv(kernels(3, 2), padding=((5, 5), (5, 5))), -4, 1, 1),
    (
      lambda x: jax.image.resize(
        x, (len(x), 2 * x.shape[1], 2 * x.shape[2], 1), "nearest"
      ),
      -0.25,
      0.5,
      0.25,
    ),
  ],
)
def test_probe(features, first, step, reach):
  (found,) = alignability.probe(features, blobs()).values()
  expected = Geometry((first,) * 2, (step,) * 2, (reach,) * 2)
  np.testing.assert_allclose(np.array(found), np.array(expected))


def test_probe_tells_the_axes_apart():
  images = jnp.asarray(RNG.normal(size=(2, 20, 30, 3)), jnp.float32)
  kernel = RNG.normal(size=(3, 7, 3, 2))

  def features(images):
    return conv(kernel)(images)[:, ::2]

  found = alignability.probe(features, images)
  assert found == {"features": Geometry((3.0, 1.0), (1.0, 2.0), (3.0, 1.0))}


@pytest.mark.parametrize("name", ["MNIST", "CIFAR", "PLANKTON"])
def test_probe_finds_what_the_layers_of_the_paper_say(name):
  layers = getattr(classifiers, name).resized(0.1, 1).convs[:4]
  blocks, channels = [], 1
  for layer in layers:
    blocks.append(networks.Block(channels, layer, rngs=nnx.Rngs(0)))
    channels = layer.filters

  def features(images):
    found = {}
    for place, block in enumerate(blocks):
      found[str(place)] = images = block(images)
    return found

  images = jnp.asarray(RNG.normal(size=(2, 60, 56, 1)), jnp.float32)
  for place, geometry in alignability.probe(features, images).items():
    told = networks.receptive_fields(layers[: int(place) + 1])
    assert geometry == told


@pytest.mark.parametrize(
  "features, message",
  [
    (
      lambda x: x + x.mean(axis=(1, 2), keepdims=True),
      "each sees all or none",
    ),
    (lambda x: x.mean(axis=(1, 2), keepdims=True), "do not tell where they"),
    (lambda x: x.mean(axis=(1, 2)), r"must be \[B, h, w, F\] with B = 4"),
    (lambda x: x[:, ::-1], "do not move with the image"),
    (
      lambda x: jax.image.resize(x, (len(x), 22, 22, 1), "linear"),
      "do not move with the image",
    ),
    (
      lambda x: x[:, (np.arange(20) ** 2 / 18).astype(int)],
      "do not move with the image",
    ),
    (lambda x: {"input": x}, "the name 'input' is for the images"),
  ],
)
def test_what_has_no_place_is_refused(features, message):
  with pytest.raises(ValueError, match=message):
    alignability.probe(features, blobs())


def naive(image, kernel, matrix, stride, pad):
  """`residual`, with NaN outside the image: it reaches what a border does.

  With the inverse, then with no warp at all; and the share that counts.
  """
  height, width = image.shape
  middle = np.array([(width - 1) / 2, (height - 1) / 2])

  def read(plane, x, y):
    """Bilinear; NaN where any pixel that counts is missing."""
    total = 0.0
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
      for j in (int(np.floor(x)), int(np.floor(x)) + 1):
        weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
        if weight > 1e-6:
          inside = 0 <= i < plane.shape[0] and 0 <= j < plane.shape[1]
          total += weight * (plane[i, j] if inside else np.nan)
    return total

  def transform(matrix, x, y):
    return matrix[:, :2] @ (np.array([x, y]) - middle) + matrix[:, 2] + middle

  def extract(plane):
    size = len(kernel)
    plane = np.pad(plane, pad, constant_values=np.nan)
    rows = range(0, plane.shape[0] - size + 1, stride)
    columns = range(0, plane.shape[1] - size + 1, stride)
    return np.array(
      [
        [
          [
            (plane[y : y + size, x : x + size] * kernel[..., 0, f]).sum()
            for f in range(kernel.shape[-1])
          ]
          for x in columns
        ]
        for y in rows
      ]
    )

  moved = np.array(
    [
      [read(image, *transform(matrix, x, y)) for x in range(width)]
      for y in range(height)
    ]
  )
  before, after = extract(image), extract(moved)
  inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
  first = (len(kernel) - 1) / 2 - pad

  def compare(matrix):
    apart, whole, count = 0.0, 0.0, 0
    for i, j in np.ndindex(before.shape[:2]):
      place = transform(matrix, first + stride * j, first + stride * i)
      x, y = (place - first) / stride
      found = np.array(
        [read(after[..., f], x, y) for f in range(kernel.shape[-1])]
      )
      if not np.isnan(found).any() and not np.isnan(before[i, j]).any():
        apart += ((found - before[i, j]) ** 2).sum()
        whole += (before[i, j] ** 2).sum()
        count += 1
    return np.sqrt(apart / whole), count / before[..., 0].size

  return *compare(inverse), compare(np.eye(2, 3))[0]


@pytest.mark.parametrize("stride, pad", [(1, 1), (2, 0)])
@pytest.mark.parametrize(
  "family, magnitude",
  [
    ("rotation", 20.0),
    ("translation", 2.5),
    pytest.param("scale", 0.3, marks=pytest.mark.slow),
    pytest.param("shear", 0.3, marks=pytest.mark.slow),
  ],
)
def test_against_loops(family, magnitude, stride, pad, x64):
  images = RNG.normal(size=(2, 15, 17, 1))
  kernel = RNG.normal(size=(3, 3, 1, 2)).astype(np.float32)
  found = audit(
    conv(kernel, stride, [(pad, pad)] * 2),
    jnp.asarray(images),
    one(family, magnitude),
    margin=0,
    steps=0,
  )
  matrix = np.asarray(
    alignability.FAMILIES[family].matrix(jnp.float64(magnitude))
  )
  residuals = found.residuals["features"][family]
  for i, image in enumerate(images):
    aligned, coverage, unaligned = naive(
      image[..., 0], kernel, matrix, stride, pad
    )
    assert residuals.aligned[0, i] == pytest.approx(aligned, rel=1e-6)
    assert residuals.unaligned[0, i] == pytest.approx(unaligned, rel=1e-6)
    assert residuals.coverage[0] == pytest.approx(coverage)


@pytest.mark.parametrize(
  "method", ["linear", pytest.param("cubic", marks=pytest.mark.slow)]
)
def test_no_border_has_a_say(method):
  """Images that are the same everywhere change only at their border."""
  found = audit(
    conv(np.abs(kernels(3, 2)), padding="SAME"),
    jnp.ones((2, 20, 21, 1)),
    {**one("translation", 2.5), **one("rotation", 20.0), **one("shear", 0.2)},
    margin=0,
    steps=3,
    method=method,
  )
  for by_family in found.residuals.values():
    for residuals in by_family.values():
      assert np.max(residuals[:4]) < ROUNDING
      assert 0 < residuals.coverage[0] < 1


def test_few_images_do_not_make_a_mixing_worse_than_none():
  found = audit(
    relu_of(conv(kernels(3, 32))), blobs(14, 2), one("rotation", 30.0), margin=0
  )
  residuals = found.residuals["features"]["rotation"]
  assert (residuals.mixed <= residuals.best).all()


def test_the_search_finds_what_is_not_the_inverse():
  """With features put a pixel off, h^-1 is another warp than it seems."""
  features = conv(gaussian(5, 1.0))
  right = Geometry((2.0, 2.0), (1.0, 1.0), (2.0, 2.0))
  wrong = right._replace(first=(3.5, 2.0), reach=(4.0, 2.0))
  families = one("rotation", 60.0)
  true, off = (
    audit(
      features, families=families, geometry={"features": g}, steps=120
    ).residuals["features"]["rotation"]
    for g in (right, wrong)
  )
  assert off.aligned.mean() > 3 * true.aligned.mean()
  assert off.best.mean() < 1.5 * true.best.mean()


def test_the_best_is_never_worse_than_its_starts():
  found = audit(
    relu_of(conv(kernels(5, 3))), families=one("rotation", 20.0, 90.0), steps=3
  )
  for by_family in found.residuals.values():
    for residuals in by_family.values():
      assert (residuals.best <= residuals.aligned + 1e-7).all()
      assert (residuals.best <= residuals.unaligned + 1e-7).all()


def test_the_best_mixing_is_that_of_lstsq(x64):
  rng = np.random.default_rng(3)
  found, wanted = rng.normal(size=(2, 6, 5, 4, 3))
  weight = rng.integers(0, 2, (5, 4)).astype(float)
  mixing = alignability._mixing(*map(jnp.asarray, (found, wanted, weight)))
  counted = weight.astype(bool)
  expected, *_ = np.linalg.lstsq(
    found[:, counted].reshape(-1, 3), wanted[:, counted].reshape(-1, 3)
  )
  np.testing.assert_allclose(np.eye(3) + mixing, expected, rtol=1e-9)


def test_features_that_are_all_zero_have_no_residual():
  found = audit(
    lambda x: 0 * x,
    families=one("shear", 0.3),
    geometry={"features": alignability.probe(lambda x: x, blobs())["features"]},
    steps=1,
  )
  residuals = found.residuals["features"]["shear"]
  assert all(np.isnan(value).all() for value in residuals[:4])
  assert np.isnan(found.profile()["shear"][1])


def test_a_channel_that_never_answers_is_mixed_with_nothing():
  found = jnp.asarray(RNG.normal(size=(4, 3, 3, 2)), jnp.float32)
  found = found.at[..., 1].set(0)
  mixing = alignability._mixing(found, 2 * found, jnp.ones((3, 3)))
  np.testing.assert_allclose(mixing, [[1, 0], [0, 0]], atol=1e-5)


@pytest.mark.parametrize(
  "argument",
  [pytest.param("matrix", marks=pytest.mark.slow), "kernel", "images"],
)
def test_gradients_are_those_of_differences(argument, x64):
  images = blobs(16, 2).astype(jnp.float64)
  kernel = jnp.asarray(kernels(3, 2))
  matrix = alignability.FAMILIES["rotation"].matrix(jnp.float64(33.0))
  geometry = Geometry((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
  arguments = {"matrix": matrix, "kernel": kernel, "images": images}

  def left(value):
    given = {**arguments, argument: value}

    def features(images):
      return jnp.tanh(convolve(images, given["kernel"]))

    return alignability.residual(
      features, given["images"], given["matrix"], geometry=geometry
    ).sum()

  value = arguments[argument]
  direction = jnp.asarray(RNG.normal(size=value.shape))
  step = 1e-6
  numeric = (
    left(value + step * direction) - left(value - step * direction)
  ) / (2 * step)
  analytic = (jax.grad(left)(value) * direction).sum()
  assert float(analytic) == pytest.approx(float(numeric), rel=1e-5)


def test_the_gradient_is_zero_where_nothing_is_left():
  images = blobs()
  weight = jnp.ones(images.shape[1:3])
  value, gradient = jax.value_and_grad(
    lambda found: alignability._compared(found, images, weight).sum()
  )(images)
  assert value == 0
  assert (gradient == 0).all()
  nothing = alignability._compared(images, images, 0 * weight)
  assert jnp.isnan(nothing).all()


@pytest.mark.parametrize(
  "method", ["linear", pytest.param("cubic", marks=pytest.mark.slow)]
)
def test_residual_is_what_audit_calls_aligned(method):
  images, features = blobs(), relu_of(conv(kernels(5, 3), 2))
  found = audit(
    features, images, one("shear", 0.3), method=method, margin=6, steps=0
  )
  matrix = alignability.FAMILIES["shear"].matrix(jnp.float32(0.3))
  compiled = jax.jit(
    functools.partial(
      alignability.residual,
      features,
      geometry=found.geometry["features"],
      margin=6,
      method=method,
    )
  )
  expected = found.residuals["features"]["shear"].aligned[0]
  np.testing.assert_allclose(compiled(images, matrix), expected, rtol=1e-4)
  assert compiled(images[:0], matrix).shape == (0,)


def test_cubic_leaves_less_of_the_image():
  families = one("rotation", 30.0)
  linear, cubic = (
    audit(lambda x: x, families=families, method=method, steps=0)
    for method in alignability.METHODS
  )
  left = [
    found.residuals[INPUT]["rotation"].aligned.mean()
    for found in (linear, cubic)
  ]
  assert left[1] < left[0] / 2


def test_projective_families_and_several_layers():
  tilt = Family(
    lambda x: jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).at[2, 0].set(x),
    (0.002, 0.004),
    "1/px",
  )
  first, second = conv(kernels(3, 2)), conv(RNG.normal(size=(3, 3, 2, 2)))

  def features(images):
    one = first(images)
    return {"one": one, "two": second(one)}

  found = audit(features, families={"tilt": tilt}, steps=2)
  assert found.layers == (INPUT, "one", "two")
  assert found.undone("tilt").shape == (3, 2)
  residuals = found.residuals["two"]["tilt"]
  np.testing.assert_allclose(
    found.undone("tilt", "aligned")[2],
    1 - residuals.aligned.mean(axis=1) / residuals.unaligned.mean(axis=1),
    rtol=1e-5,
  )
  assert found.profile()["tilt"].shape == (3,)


def test_undone_and_profile():
  def residuals(unaligned, aligned):
    values = [np.array(v)[:, None] for v in (unaligned, aligned)]
    return alignability.Residuals(
      values[0], values[1], values[1], values[1], np.ones(2)
    )

  found = alignability.Audit(
    {"shear": alignability.FAMILIES["shear"]},
    {},
    {
      INPUT: {"shear": residuals([0.5, 1.0], [0.1, 0.2])},
      "deep": {"shear": residuals([0.3, 0.1], [0.2, 0.1])},
    },
  )
  np.testing.assert_allclose(
    found.undone("shear"), [[0.8, 0.8], [1 / 3, 0]], atol=1e-6
  )
  np.testing.assert_allclose(found.profile()["shear"], [0.8, 0.25])
  with pytest.raises(ValueError, match="family"):
    found.undone("tilt")
  with pytest.raises(ValueError, match="kind"):
    found.undone("shear", "worst")


@pytest.mark.parametrize(
  "options, message",
  [
    ({"method": "nearest"}, "method"),
    ({"margin": -1}, "margin"),
    ({"steps": -1}, "steps"),
    ({"images": jnp.zeros((1, 9, 9, 1))}, r"B of at least 2.*\(1, 9, 9, 1\)"),
    ({"images": jnp.zeros((9, 9, 1))}, r"must be \[B, H, W, C\]"),
    ({"families": one("shear")}, "'shear' has no magnitudes"),
    ({"geometry": {"features": Geometry(0, 1, 0)}}, "Geometry of pairs"),
    (
      {"geometry": {"other": Geometry((0, 0), (1, 1), (0, 0))}},
      r"must name the layers \['features'\], got \['other'\]",
    ),
    (
      {"families": one("translation", 30.0), "margin": 0},
      "translation by 30 px leaves input no place",
    ),
  ],
)
def test_mistakes(options, message):
  with pytest.raises(ValueError, match=message):
    audit(conv(kernels(3, 2)), **options)
