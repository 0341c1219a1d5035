"""Classification errors, and alignment along the axes of a perturbation.

Answers:
  `error_rate`, `same_answer`, `confusion`: errors, invariance of the predicted
    class to the perturbation, and which classes are taken for which.

Poses:
  `alignment`: spread of the residual about the class and about the image, and
    the slope of predicted against true poses;
  `pooled_alignment`: the spread and the line of several components together;
  `residual`, `response`, `deming_line`: their parts.

Statistics are NumPy in float64: small arrays, whose results are reported.
docs/metrics.md explains every number of a report.
"""

from stnjax.evaluation.answers import confusion as confusion
from stnjax.evaluation.answers import error_rate as error_rate
from stnjax.evaluation.answers import same_answer as same_answer
from stnjax.evaluation.lines import Line as Line
from stnjax.evaluation.lines import deming_line as deming_line
from stnjax.evaluation.poses import Alignment as Alignment
from stnjax.evaluation.poses import Axis as Axis
from stnjax.evaluation.poses import PooledAlignment as PooledAlignment
from stnjax.evaluation.poses import Response as Response
from stnjax.evaluation.poses import alignment as alignment
from stnjax.evaluation.poses import pooled_alignment as pooled_alignment
from stnjax.evaluation.poses import residual as residual
from stnjax.evaluation.poses import response as response
