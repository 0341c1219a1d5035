"""Networks with a deformed convolution, against loops."""

import functools

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stnjax import placement, transforms
from stnjax.nn import deformation
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Conv, Localisation
from tests import reference
from tests.nn.deformation_test import (
  convolve,
  lattice,
  normal,
  ordinary,
  single,
)
from tests.placement import tiny

# Two stages, padded and not, with all that a stage may have.
LAYERS = classifiers.Classifier(
  convs=(Conv(3, 5, pool=2, padding="VALID"), Conv(4, 3, batch_norm=True)),
  localisation={"small": Localisation((), (8,))},
  slope=0.1,
  padding="border",
)
IMAGES = normal(2, 10, 8, 2).astype(np.float32)  # features: 3 x 2

create = functools.partial(
  tiny.create, classifier=LAYERS, image_shape=IMAGES.shape[1:], num_classes=5
)
shake = functools.partial(tiny.shake, scale=0.2)


@nnx.jit
def gradients(network):
  """Of a loss, for all parameters."""
  return nnx.grad(lambda network: (network(IMAGES).logits ** 2).sum())(network)


def expected_points(network, depth, read):
  """The points, of what the predictor's own layers say of what is read."""
  net, stage = tiny.localiser(network, depth), network.stages[depth]
  size, pad = stage.kernel_size, (1, 1) if depth else (0, 0)
  regular = lattice(*read.shape[1:3], (size, size), pad)
  hidden = ordinary(read, net.hidden.kernel[...], stage.padding)
  hidden = np.asarray(hidden + net.hidden.bias[...])
  said = np.where(hidden > 0, hidden, 0.1 * hidden)
  said = said @ net.head.kernel[...] + net.head.bias[...]
  if network.placement.kind == "DEF":
    return regular, regular + said.reshape(2, *regular.shape)
  theta = np.asarray(transforms.matrix(said, net.family))
  points = np.zeros((2, *regular.shape))
  for index in np.ndindex(2, *regular.shape[:2]):
    grid = reference.grid(theta[index], (size, size), align_corners=False)
    middle = regular[index[1:]].mean(axis=(0, 1))
    points[index] = middle + grid * size / 2
  return regular, points


class DeformedTest(parameterized.TestCase):
  @parameterized.parameters("STN-UCN1", "DEF0")
  @pytest.mark.slow
  def test_untrained_it_is_the_cnn_of_its_seed(self, name):
    network = create(name)
    output, plain = network(IMAGES), create("CNN")(IMAGES)
    np.testing.assert_allclose(output.logits, plain.logits, atol=1e-5)
    np.testing.assert_array_equal(output.pose, plain.pose)
    np.testing.assert_array_equal(output.thetas[0], plain.pose)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)

  @parameterized.parameters(
    ("STN-UCN1", "rotation", True), ("DEF0", "affine", False)
  )
  @pytest.mark.slow
  def test_forward(self, name, family, batch_norm):
    self.compare(name, family, batch_norm)

  @parameterized.parameters(
    ("STN-UCN0", "affine", False), ("DEF1", "affine", True)
  )
  @pytest.mark.slow
  def test_forward_at_other_depths(self, name, family, batch_norm):
    self.compare(name, family, batch_norm)

  def compare(self, name, family, batch_norm):
    network = shake(create(name, family=family, batch_norm=batch_norm))
    depth = int(name[-1])
    read = network.stages[0](IMAGES) if depth else IMAGES
    regular, points = expected_points(network, depth, read)
    if batch_norm:  # that of the running averages: 0 and 1
      read = read / np.sqrt(1 + 1e-5)
    conv = network.stages[depth].conv
    x = convolve(np.asarray(read), points, np.asarray(conv.kernel[...]))
    if depth:  # a batch norm, and no bias
      x = x / np.sqrt(1 + 1e-5)
      x = np.where(x > 0, x, 0.1 * x)
    else:
      x = x + conv.bias[...]
      x = x.reshape(2, 3, 2, 2, 2, 3).max(axis=(2, 4))
      x = network.stages[1](jnp.where(x > 0, x, 0.1 * x).astype(jnp.float32))
    logits = network.head(jnp.asarray(x, jnp.float32))
    output = nnx.jit(lambda network: network(IMAGES))(network)
    np.testing.assert_allclose(output.logits, logits, atol=1e-4)
    for seen, theta in ((read, output.thetas[0]), (IMAGES, output.pose)):
      expected = deformation.mean_transform(
        *single(points, regular), seen.shape[1:3]
      )
      np.testing.assert_allclose(theta, expected, atol=1e-5)
      self.assertGreater(np.abs(theta - jnp.eye(2, 3)).max(), 0.01)
    last = network.features(IMAGES)["block 2"]
    np.testing.assert_allclose(network.head(last), logits, atol=1e-4)

  @parameterized.parameters("STN-UCN1", "DEF0")
  @pytest.mark.slow
  def test_gradients_leave_the_identity_and_reach_all_parameters(self, name):
    network = create(name)
    head = gradients(network)["sites"][name[-1]]["predictor"]["head"]
    for gradient in jax.tree.leaves(head):
      self.assertGreater(np.abs(gradient).max(), 1e-4)
    for gradient in jax.tree.leaves(gradients(shake(network))):
      self.assertGreater(np.abs(gradient).max(), 0)

  @pytest.mark.slow
  def test_theta_gradient_scales_what_flows_through_the_points(self):
    plain, scaled = (
      gradients(shake(create("STN-UCN1", theta_gradient=factor)))
      for factor in (1.0, 0.25)
    )
    for part, factor in (("sites", 0.25), ("head", 1.0)):
      for full, part_of_it in zip(
        *(jax.tree.leaves(grad[part]) for grad in (plain, scaled)), strict=True
      ):
        size = np.abs(full).max()
        np.testing.assert_allclose(part_of_it, factor * full, atol=1e-4 * size)

  @parameterized.parameters("STN-UCN2", "DEF9")
  def test_depth_beyond_the_last_convolution_is_refused(self, name):
    with self.assertRaisesRegex(
      ValueError, f"depth {name[-1]} is deeper.*accepted: 0 to 1"
    ):
      create(name)

  @parameterized.parameters("STN-UCN0", "DEF1")
  def test_a_stage_without_points_is_refused(self, name):
    rngs = nnx.Rngs(0)
    stages = [nnx.Conv(2, 3, (3, 3), rngs=rngs), nnx.relu]
    backbone = placement.Backbone(stages, placement.MeanHead(3, 5, rngs=rngs))
    task = placement.Task(IMAGES.shape[1:], 5)
    with self.assertRaisesRegex(
      ValueError, f"{name} deforms.*stage {int(name[-1]) + 1}.*Deformable"
    ):
      placement.place(backbone, name, task, rngs=rngs)

  @parameterized.parameters("STN-UCN0", "STN-UCN1", "DEF0", "DEF1")
  @pytest.mark.slow
  def test_parameters_are_about_those_of_stn_c(self, name):
    task = placement.Task((28, 28, 1), 10)
    for options in ({}, {"width": 0.25}, {"localisation_width": 0.5}):
      deformed, resampled = (
        placement.count_parameters(
          nnx.eval_shape(
            lambda n=n, options=options: placement.create(
              "mnist", n, task, **options, rngs=nnx.Rngs(0)
            )
          )
        )
        for n in (name, f"STN-C{name[-1]}")
      )
      self.assertEqual(deformed["classifier"], resampled["classifier"])
      np.testing.assert_allclose(  # to half a filter of 8
        deformed["localisation"], resampled["localisation"], rtol=0.06
      )

  @parameterized.parameters("STN-UCN1", "DEF1")
  @pytest.mark.slow
  def test_it_learns_and_moves(self, name):
    network = create(name)
    optimiser = nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)
    images = normal(32, *IMAGES.shape[1:]).astype(np.float32)
    labels = np.arange(32) % 5

    @nnx.jit
    def step(network, optimiser):
      def loss_fn(network):
        logits = network(images, train=True).logits
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(logits, labels).mean()

      loss, gradient = nnx.value_and_grad(loss_fn)(network)
      optimiser.update(network, gradient)
      return loss

    losses = [step(network, optimiser) for _ in range(12)]
    self.assertLess(losses[-1], losses[0])
    pose = network(images).pose
    self.assertGreater(np.abs(pose - np.eye(2, 3)).max(), 1e-4)


if __name__ == "__main__":
  absltest.main()
