"""How devices share the work of seeds and batches."""

from absl.testing import absltest, parameterized
import jax

from stnjax.training import layout


class LayoutTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, 4, 4), (2, 4, 2), (3, 4, 3), (4, 4, 4), (5, 4, 1), (6, 4, 3), (9, 2, 1)
  )
  def test_as_many_devices_as_divide_the_seeds(self, seeds, devices, used):
    found = layout.lay_out(seeds, 16, jax.devices()[:devices])
    self.assertEqual(found.devices, jax.devices()[:used])
    self.assertEqual(found.parts, used if seeds == 1 else 1)
    many = (
      f"{'seeds' if seeds > 1 else 'each batch'} spread over {used} devices"
    )
    self.assertEqual(str(found), many if used > 1 else "on one device")

  def test_spread_seeds_leave_the_batch_whole(self):
    self.assertEqual(layout.lay_out(3, 16, jax.devices()[:3]).parts, 1)
    with self.assertRaisesRegex(ValueError, "batch_size=16.*multiple of 3"):
      layout.lay_out(1, 16, jax.devices()[:3])


if __name__ == "__main__":
  absltest.main()
