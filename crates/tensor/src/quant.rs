//! Block-quantised formats: rows of floats to blocks and back.
