"""Statistics, curves and the HTML page of a run. Reads run folders; imports neither JAX nor matplotlib."""
