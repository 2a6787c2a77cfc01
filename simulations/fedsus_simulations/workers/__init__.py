"""Where blocks of a cohort are trained."""
