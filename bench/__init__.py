"""The budgets, measured. Figures are ratios within one run where that is possible; see README.md beside this file."""
