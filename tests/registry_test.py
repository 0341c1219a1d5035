from absl.testing import absltest

from stnjax.registry import Registry


class RegistryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.shapes = Registry("shape")

  def test_objects_are_found_by_name_in_order(self):
    self.shapes.register("square", 4)

    @self.shapes.register("circle")
    def circle():
      return 0

    self.assertEqual(list(self.shapes), ["square", "circle"])
    self.assertEqual(self.shapes["square"], 4)
    self.assertIs(self.shapes["circle"], circle)
    self.assertIn("circle", self.shapes)
    self.assertIsNone(self.shapes.get("line"))

  def test_unknown_names_list_the_known_ones(self):
    self.shapes.register("square", 4)
    with self.assertRaisesRegex(ValueError, "shape='line' is .*: square"):
      self.shapes["line"]
    with self.assertRaisesRegex(ValueError, "shape=3 is unknown"):
      self.shapes[3]
    self.assertNotIn([], self.shapes)

  def test_nothing_is_replaced_silently(self):
    self.shapes.register("square", 4)
    with self.assertRaisesRegex(ValueError, "already registered"):
      self.shapes.register("square", 5)
    self.shapes.register("square", 5, replace=True)
    self.assertEqual(self.shapes["square"], 5)

  def test_names_are_single_words(self):
    for name in ("", "a b", 3):
      with self.assertRaisesRegex(ValueError, "without spaces"):
        self.shapes.register(name, 1)


if __name__ == "__main__":
  absltest.main()
