"""What is split, as data: plans and the kinds of arguments that they name."""
