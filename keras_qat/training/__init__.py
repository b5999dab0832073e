"""What training needs beside the layers: losses, penalties, statistics, warnings."""
