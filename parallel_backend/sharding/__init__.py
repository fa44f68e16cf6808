"""How a model's forward is split over ranks."""
