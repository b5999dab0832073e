"""From a trained model to integers, and the connections that make its inference agree with them."""
