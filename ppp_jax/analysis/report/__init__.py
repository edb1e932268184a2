"""Reports: the HTML page of a run folder, and the folder of figures and tables of an array."""
