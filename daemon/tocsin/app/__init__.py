"""The life of the process: composition root, loops, leader, reload, logging."""
