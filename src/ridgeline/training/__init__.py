"""The two runners, evaluation, and the loop that drives them."""
