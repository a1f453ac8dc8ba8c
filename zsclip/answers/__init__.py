"""Vectors -> answers: the classifier, its scores, and the answer for each picture."""
