"""Sampling by affine maps, and its derivatives, as operations of JAX.

As those of `operations`, but of a matrix that takes the pixels of the result to
the points: `read`, the values; `slope`, their change as the matrix moves;
`grad`, the gradient of the matrix; `grad_image`, of the image. On CPU all but
`slope` are functions of sampler.cc, which write no points to memory; elsewhere,
and where several matrices share an image, they are made of the operations on
points.
"""

import functools
import math

import jax
from jax.interpreters import ad, batching

from stnjax import promotion
from stnjax.sampling import affine_maps
from stnjax.sampling.kernels import operations, plain


@promotion.usual
def _read(image, matrix, *, output_shape, **options):
  """`[..., *output_shape, C]`: images at the points of an affine map."""
  shape = image.shape[-len(output_shape) - 1 : -1]
  points = _points(matrix, shape, output_shape, **options)
  values = operations.READ.bind(image, *points, **options)
  return values.reshape(*matrix.shape[:-2], *output_shape, image.shape[-1])


@promotion.usual
def _slope(image, matrix, move, **options):
  """How the values change where the matrix moves."""
  of_matrix = functools.partial(_read, image, **options)
  return jax.jvp(of_matrix, (matrix,), (move,))[1]


@promotion.usual
def _grad(image, cotangent, matrix, *, output_shape, **options):
  """The gradient of the matrix."""
  shape = image.shape[-len(output_shape) - 1 : -1]
  points, to_matrix = jax.vjp(
    lambda matrix: _points(matrix, shape, output_shape, **options),
    matrix,
  )
  cotangent = cotangent.reshape(*points[0].shape, image.shape[-1])
  gradients = operations.GRAD_COORDS.bind(image, cotangent, *points, **options)
  return to_matrix(gradients)[0]


@promotion.usual
def _grad_image(values, matrix, *, shape, output_shape, **options):
  """The gradient of the images."""
  points = _points(matrix, shape, output_shape, **options)
  values = values.reshape(*points[0].shape, values.shape[-1])
  return operations.GRAD_IMAGE.bind(values, *points, shape=shape, **options)


def _points(matrix, shape, output_shape, **options):
  """The points of an affine map, as operations take them."""
  points = affine_maps.places(matrix, shape, output_shape)
  return [
    place.reshape(*matrix.shape[:-2], math.prod(output_shape))
    for place in plain.padded(points, shape, **options)
  ]


def _mapped(image, matrix, *_, output_shape):
  return [(*matrix[:-2], *output_shape, image[-1])]


READ = operations.operation("read_affine", _read, _mapped)
_SLOPE = operations.operation("slope_affine", _slope, _mapped)
_GRAD = operations.operation(
  "grad_affine", _grad, lambda _, __, matrix, output_shape: [matrix]
)
_GRAD_IMAGE = operations.operation(
  "grad_image_affine",
  _grad_image,
  lambda values, matrix, shape, output_shape: [
    (*matrix[:-2], *shape, values[-1])
  ],
)


def _batch(primitive, reference, operands, dims, **options):
  if dims[0] is not None:
    return operations.batch(primitive, operands, dims, **options)
  apply = functools.partial(reference, **options)  # does not copy the image
  return jax.vmap(apply, dims)(*operands), 0


for _primitive, _reference in (
  (READ, _read),
  (_SLOPE, _slope),
  (_GRAD, _grad),
):
  batching.primitive_batchers[_primitive] = functools.partial(
    _batch, _primitive, _reference
  )


def _move_read(operands, moves, **options):
  return _SLOPE.bind(*operands, *moves, **options)


def _move_grad_image(operands, moves, **options):
  values, matrix = operands
  add = functools.partial(_grad_image, values, **options)
  return jax.jvp(add, (matrix,), tuple(moves))[1]


def _transpose_read(cotangent, image, matrix, *, output_shape, **options):
  options |= {"output_shape": output_shape}
  shape = image.aval.shape[-len(output_shape) - 1 : -1]
  to_image = _GRAD_IMAGE.bind(cotangent, matrix, shape=shape, **options)
  return to_image, None


def _transpose_slope(cotangent, image, matrix, move, **options):
  if ad.is_undefined_primal(image):
    return _along(image, cotangent, matrix, move, **options), None, None
  return None, None, _GRAD.bind(image, cotangent, matrix, **options)


def _transpose_grad(move, image, cotangent, matrix, **options):
  if ad.is_undefined_primal(image):
    return _along(image, cotangent, matrix, move, **options), None, None
  return None, _SLOPE.bind(image, matrix, move, **options), None


def _along(image, values, matrix, move, *, output_shape, **options):
  """The adjoint of `slope` in the image."""
  options |= {"output_shape": output_shape}
  shape = image.aval.shape[-len(output_shape) - 1 : -1]
  return _move_grad_image((values, matrix), (move,), shape=shape, **options)


def _transpose_grad_image(cotangent, values, matrix, *, shape, **options):
  del values, shape
  return READ.bind(cotangent, matrix, **options), None


ad.primitive_jvps[READ] = operations.linear_change(READ, _move_read)
ad.primitive_jvps[_GRAD_IMAGE] = operations.linear_change(
  _GRAD_IMAGE, _move_grad_image
)
ad.primitive_transposes[READ] = _transpose_read
ad.primitive_transposes[_SLOPE] = _transpose_slope
ad.primitive_transposes[_GRAD] = _transpose_grad
ad.primitive_transposes[_GRAD_IMAGE] = _transpose_grad_image
