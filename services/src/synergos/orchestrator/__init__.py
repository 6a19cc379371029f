"""The REST API of 2021: records of collaborations and their parts, and the jobs that work on them."""
