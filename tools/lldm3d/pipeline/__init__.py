"""From labelled scans to the report: a Snakemake workflow whose rules are the stages."""
