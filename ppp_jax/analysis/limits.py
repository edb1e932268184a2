"""Numbers of the analysis that the help of commands tells before the analysis is imported."""

LEAST_ROTATIONS = 19  # of a rotation test that claims anything: with fewer no p reaches 5 %
ROTATIONS, MOST_ROTATIONS = 200, 10**6  # of a rotation test, by default and at most
MOST_SAMPLES = 100_000  # of a layer; of larger ones so many are drawn
