"""Records: every attempted case leaves a row, in Parquet, with what it takes to trust it.

One job writes one file (`write_job`); frugal.aggregate joins them into `runs`, `measurements` and `samples`, and
frugal.compare adds `comparisons`. Columns and their meanings: frugal.records.columns.
"""

from frugal.records.canonical import canonical_json, case_id
from frugal.records.columns import Claim, Comparison, Measurement, RowKey, Run, Sample
from frugal.records.migrate import Migrated, migrate
from frugal.records.privacy import scrub
from frugal.records.read import job_files, job_run, job_samples, job_table, read, read_job
from frugal.records.schema import SCHEMA_VERSION, SCHEMAS, RecordError, SchemaMismatch, meanings
from frugal.records.write import table_of, write_job, write_table

__all__ = [
    "SCHEMAS",
    "SCHEMA_VERSION",
    "Claim",
    "Comparison",
    "Measurement",
    "Migrated",
    "RecordError",
    "RowKey",
    "Run",
    "Sample",
    "SchemaMismatch",
    "canonical_json",
    "case_id",
    "job_files",
    "job_run",
    "job_samples",
    "job_table",
    "meanings",
    "migrate",
    "read",
    "read_job",
    "scrub",
    "table_of",
    "write_job",
    "write_table",
]
