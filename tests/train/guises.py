"""Boards that are one problem in several guises."""

import numpy as np


def problems(boards):
    """Boards of 2048, int32 [n, R, R], each as the first of its eight guises: alike where they are the same problem."""

    def first(board):
        turned = [np.rot90(board, k) for k in range(4)]
        return min(each.tolist() for each in (*turned, *(t.T for t in turned)))

    return np.asarray([first(board) for board in np.asarray(boards)])
