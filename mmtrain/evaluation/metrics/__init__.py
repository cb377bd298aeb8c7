"""Figures from ranks and predictions, a file a kind; `measuring` computes them for a model, `report` shows them."""
