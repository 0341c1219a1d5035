"""Errors, unchanged answers and confusions, counted by hand."""

from absl.testing import absltest, parameterized
import numpy as np

from stnjax import evaluation


class ErrorTest(absltest.TestCase):
  def test_error_rate(self):
    self.assertEqual(evaluation.error_rate([1, 2, 3, 4], [1, 2, 0, 0]), 0.5)

  def test_of_several_heads_all_must_be_right(self):
    labels = np.array([[1, 2, 10], [3, 10, 10], [4, 5, 6], [7, 7, 7]])
    predicted = labels.copy()
    predicted[1, 2] = predicted[3, 0] = predicted[3, 1] = 0
    self.assertEqual(evaluation.error_rate(predicted, labels), 0.5)
    self.assertEqual(evaluation.error_rate(labels, labels), 0)


class SameAnswerTest(parameterized.TestCase):
  @parameterized.parameters((2, ()), (5, ()), (3, (4,)))
  def test_it_counts_images_whose_answers_never_change(self, passes, heads):
    rng = np.random.default_rng(0)
    predicted = np.repeat(rng.integers(0, 3, (1, 60, *heads)), passes, 0)
    changed = rng.random(predicted.shape) < 0.1
    predicted = np.where(changed, 3, predicted)
    count = 0
    for image in range(60):
      answers = {tuple(np.ravel(one[image])) for one in predicted}
      count += len(answers) == 1
    self.assertBetween(count, 1, 59)
    self.assertAlmostEqual(evaluation.same_answer(predicted), count / 60)

  def test_always_wrong_in_one_way_is_invariant(self):
    self.assertEqual(evaluation.same_answer(np.full((3, 5), 7)), 1)

  @parameterized.parameters((1, 4), (3, 0), (0, 4))
  def test_it_is_not_known_from_one_pass_or_no_images(self, *shape):
    self.assertTrue(np.isnan(evaluation.same_answer(np.zeros(shape, int))))

  def test_one_pass_without_its_axis_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"\[P, N\] or .* shape \(4,\)"):
      evaluation.same_answer(np.zeros(4, int))


class ConfusionTest(parameterized.TestCase):
  @parameterized.parameters(((), ()), ((3,), ()), ((), (2,)), ((3,), (2,)))
  def test_it_counts_every_answer_of_every_pass(self, passes, heads):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (20, *heads))
    predicted = rng.integers(0, 5, (*passes, 20, *heads)).astype(np.int16)
    found = evaluation.confusion(predicted, labels, 5)
    expected = np.zeros((5, 5), int)
    for index, answer in np.ndenumerate(predicted):
      expected[labels[index[len(passes) :]], answer] += 1
    np.testing.assert_array_equal(found, expected)

  def test_many_classes_do_not_overflow_small_integers(self):
    top = np.array([199], np.uint8)
    self.assertEqual(evaluation.confusion(top, top, 200)[199, 199], 1)

  @parameterized.parameters(
    ([0, 1], [0, 1, 1], "predicted must have the shape of labels"),
    ([0, 3], [0, 1], r"predicted must be in \[0, num_classes=3\), got 0 to 3"),
    ([0, 1], [0, -1], "labels must be in"),
  )
  def test_arguments_that_do_not_fit_are_named(self, predicted, labels, told):
    with self.assertRaisesRegex(ValueError, told):
      evaluation.confusion(np.array(predicted), np.array(labels), 3)


if __name__ == "__main__":
  absltest.main()
