"""Prints the measures of agreement that `crates/label/src/alpha.rs` asserts, computed by the packages `krippendorff` and scikit-learn.

    pip install krippendorff==0.9.0 scikit-learn==1.9.1
    python scripts/oracle/agreement.py
"""

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score

nan = np.nan
# Four annotators, twelve units: the example of Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, part C.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
]
# Two annotators, none missing, and a scale on which they are seldom far apart.
TWO = [[1, 2, 3, 4, 5, 5, 1, 2], [2, 2, 4, 4, 4, 5, 1, 3]]

for name, table in [("example", EXAMPLE), ("two", TWO)]:
    for level in ["nominal", "ordinal"]:
        alpha = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
        print(f"alpha, {name}, {level}: {alpha:.12f}")
print(f"kappa, two: {cohen_kappa_score(*TWO):.12f}")
