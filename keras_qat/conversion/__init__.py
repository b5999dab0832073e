"""From a trained model to integers, and what makes its inference agree with them."""
