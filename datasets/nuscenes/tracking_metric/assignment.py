"""The assignment of least cost, with SciPy's choice where several cost the same."""

import numpy as np
from jaxtyping import Float64, Int64

from datasets.arrays import Array
from datasets.compiled import compiled


@compiled
def least_cost(costs: Float64[Array, "R C"]) -> Int64[Array, "R"]:
    """The column of each row, -1 for none; as many pairs as the smaller side has, at the least sum of costs (finite).

    Shortest augmenting paths (Crouse, On implementing 2D rectangular assignment algorithms, 2016), as SciPy's
    `linear_sum_assignment`; among equal costs columns are looked at in its order, so that the pairs are its own.
    """
    rows, columns = costs.shape
    column_of_row = np.full(rows, -1, dtype=np.int64)
    if rows == 0 or columns == 0:
        return column_of_row
    if columns < rows:
        row_of_column = _assign_rows(costs.T.copy())
        for column in range(columns):
            column_of_row[row_of_column[column]] = column
        return column_of_row
    return _assign_rows(costs)


@compiled
def _assign_rows(costs: Float64[Array, "R C"]) -> Int64[Array, "R"]:
    """`least_cost` of no more rows than columns."""
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of_row, row_of_column = np.full(rows, -1, dtype=np.int64), np.full(columns, -1, dtype=np.int64)
    came_from = np.full(columns, -1, dtype=np.int64)
    open_columns = np.empty(columns, dtype=np.int64)
    path_cost = np.empty(columns)
    row_seen, column_seen = np.empty(rows, dtype=np.bool_), np.empty(columns, dtype=np.bool_)
    for start in range(rows):
        for place in range(columns):
            open_columns[place] = columns - 1 - place
        open_count = columns
        path_cost[:] = np.inf
        row_seen[:] = False
        column_seen[:] = False
        row, end, reached = start, -1, 0.0
        while end == -1:
            row_seen[row] = True
            best_place, lowest = -1, np.inf
            for place in range(open_count):
                column = open_columns[place]
                cost = reached + costs[row, column] - row_price[row] - column_price[column]
                if cost < path_cost[column]:
                    came_from[column] = row
                    path_cost[column] = cost
                # Of equal ones a column that is still free ends the search.
                free = row_of_column[column] == -1
                if path_cost[column] < lowest or (path_cost[column] == lowest and free):
                    lowest = path_cost[column]
                    best_place = place
            reached = lowest
            column = open_columns[best_place]
            column_seen[column] = True
            open_count -= 1
            open_columns[best_place] = open_columns[open_count]
            if row_of_column[column] == -1:
                end = column
            else:
                row = row_of_column[column]
        row_price[start] += reached
        for row in range(rows):
            if row_seen[row] and row != start:
                row_price[row] += reached - path_cost[column_of_row[row]]
        for column in range(columns):
            if column_seen[column]:
                column_price[column] -= reached - path_cost[column]
        column = end
        while True:
            row = came_from[column]
            row_of_column[column] = row
            column_of_row[row], column = column, column_of_row[row]
            if row == start:
                break
    return column_of_row
