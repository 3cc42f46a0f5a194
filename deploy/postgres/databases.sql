-- The databases of Dagster and of MLflow: two, since both keep their schema's version in a table of one name.
CREATE DATABASE dagster;
CREATE DATABASE mlflow;
