"""What one would write without an accelerator: rules in plain Python on NumPy boards, pictures drawn with pygame.

Like VLM-Gym's games in what a step does (check the answer, change the board, look whether the game can go on, draw the
window anew with 80 pixels a cell), written anew. Each game: `reset()`, `step() -> picture uint8 [H, W, 3]` of a random
answer.
"""

import os
import random
import subprocess
import sys
from collections import deque
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

CELL = 80  # pixels
Board = list[list[int]]  # 0 is empty
INKS = ((220, 40, 40), (40, 160, 60), (40, 90, 210), (245, 200, 20))


class Window:
    """A board drawn with pygame, and the score below it."""

    def __init__(self, size: int) -> None:
        import pygame

        pygame.init()
        self.pygame, self.size = pygame, size
        self.surface = pygame.Surface((size * CELL, size * CELL + 40))
        self.font = pygame.font.SysFont(None, 36)

    def draw(self, board: Board, score: int, numbers: bool) -> np.ndarray:
        """The picture of a board: tiles of numbers, or of coloured shapes."""
        draw, surface = self.pygame.draw, self.surface
        surface.fill((255, 255, 255))
        for i, row in enumerate(board):
            for j, kind in enumerate(row):
                cell = self.pygame.Rect(j * CELL, i * CELL, CELL, CELL)
                draw.rect(surface, (238, 228, 218), cell)
                draw.rect(surface, (190, 190, 190), cell, 1)
                if not kind:
                    continue
                inner = cell.inflate(-20, -20)
                if numbers:
                    draw.rect(surface, (245, 255 - 12 * kind, 120), inner, border_radius=6)
                    text = self.font.render(str(2**kind), True, (40, 40, 40))
                    surface.blit(text, text.get_rect(center=inner.center))
                else:
                    self._shape(inner, INKS[kind % 4], kind // 4 % 3)
        surface.blit(self.font.render(f"Score: {score}", True, (0, 0, 0)), (10, self.size * CELL + 5))
        return self.pygame.surfarray.array3d(surface).transpose(1, 0, 2)

    def _shape(self, inner: Any, ink: tuple[int, int, int], shape: int) -> None:
        draw = self.pygame.draw
        corners = (inner.midtop, inner.bottomright, inner.bottomleft)
        for colour, width in ((ink, 0), ((0, 0, 0), 2)):
            if shape == 0:
                draw.ellipse(self.surface, colour, inner, width)
            elif shape == 1:
                draw.rect(self.surface, colour, inner, width)
            else:
                draw.polygon(self.surface, colour, corners, width)


class Merging:
    """2048."""

    def __init__(self, size: int = 4) -> None:
        self.size, self.window = size, Window(size)
        self.reset()

    def reset(self) -> None:
        """An empty board with two tiles."""
        self.board, self.score = np.zeros((self.size, self.size), np.uint8), 0
        self._spawn()
        self._spawn()

    def step(self) -> np.ndarray:
        """Slide a random way."""
        turns = random.randrange(4)
        turned = np.rot90(self.board, turns)
        lines = [self._pull([int(k) for k in line]) for line in turned]
        board = np.rot90(np.array([line for line, _ in lines], np.uint8), -turns)
        if not np.array_equal(board, self.board):
            self.board, self.score = board.copy(), self.score + sum(points for _, points in lines)
            self._spawn()
        if self._stuck():
            self.reset()
        return self.window.draw(self.board.tolist(), self.score, numbers=True)

    def _spawn(self) -> None:
        rows, columns = np.where(self.board == 0)
        place = random.randrange(len(rows))
        self.board[rows[place], columns[place]] = 1 if random.random() > 0.1 else 2

    def _pull(self, line: list[int]) -> tuple[list[int], int]:
        tiles, done, points = [k for k in line if k], [], 0
        while tiles:
            first = tiles.pop(0)
            if tiles and tiles[0] == first:
                tiles.pop(0)
                first += 1
                points += 2**first
            done.append(first)
        return done + [0] * (self.size - len(done)), points

    def _stuck(self) -> bool:
        board = self.board
        return bool(board.all() and (board[1:] != board[:-1]).all() and (board[:, 1:] != board[:, :-1]).all())


class Pairs:
    """Shisen-Sho."""

    def __init__(self, size: int = 6, copies: int = 4) -> None:
        self.size, self.copies, self.window = size, copies, Window(size)
        self.reset()

    def reset(self) -> None:
        """A shuffled board."""
        tiles = [1 + i // self.copies for i in range(self.size**2)]
        random.shuffle(tiles)
        self.board: Board = [tiles[i * self.size : (i + 1) * self.size] for i in range(self.size)]
        self.score = 0

    def step(self) -> np.ndarray:
        """Take a random pair of equal tiles away, if a path joins them."""
        tiles = [(i, j) for i, row in enumerate(self.board) for j, kind in enumerate(row) if kind]
        first = random.choice(tiles)
        alike = [at for at in tiles if at != first and self._kind(at) == self._kind(first)]
        second = random.choice(alike)
        if self._joined(first, second):
            for i, j in (first, second):
                self.board[i][j] = 0
            self.score += 1
            if not self._can_go_on():
                self.reset()
        return self.window.draw(self.board, self.score, numbers=False)

    def _kind(self, at: tuple[int, int]) -> int:
        return self.board[at[0]][at[1]]

    def _can_go_on(self) -> bool:
        tiles = [(i, j) for i, row in enumerate(self.board) for j, kind in enumerate(row) if kind]
        return any(
            self._kind(a) == self._kind(b) and self._joined(a, b) for n, a in enumerate(tiles) for b in tiles[n + 1 :]
        )

    def _joined(self, start: tuple[int, int], end: tuple[int, int]) -> bool:
        """Search outward from one tile, in at most three straight lines."""
        queue, seen = deque([(start, way, 0) for way in range(4)]), {}
        while queue:
            (i, j), way, turns = queue.popleft()
            i, j = i + (1, -1, 0, 0)[way], j + (0, 0, 1, -1)[way]
            if (i, j) == end:
                return True
            if not (-1 <= i <= self.size and -1 <= j <= self.size) or seen.get((i, j, way), 3) <= turns:
                continue
            seen[i, j, way] = turns
            if 0 <= i < self.size and 0 <= j < self.size and self.board[i][j]:
                continue
            queue += [((i, j), other, turns + (other != way)) for other in range(4) if turns + (other != way) < 3]
        return False


class Swapping:
    """Swap."""

    def __init__(self, size: int = 8, kinds: int = 12) -> None:
        self.size, self.kinds, self.window = size, kinds, Window(size)
        self.reset()

    def reset(self) -> None:
        """A board without runs."""
        self.board: Board = [[self._new() for _ in range(self.size)] for _ in range(self.size)]
        self.score = 0
        self._settle()

    def step(self) -> np.ndarray:
        """Swap random neighbours, if that makes a run."""
        i, j = random.randrange(self.size), random.randrange(self.size - 1)
        a, b = random.choice([((i, j), (i, j + 1)), ((j, i), (j + 1, i))])
        self._swap(a, b)
        if self._runs():
            self._settle()
        else:
            self._swap(a, b)
        return self.window.draw(self.board, self.score, numbers=False)

    def _new(self) -> int:
        return random.randint(1, self.kinds)

    def _swap(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        board = self.board
        board[a[0]][a[1]], board[b[0]][b[1]] = board[b[0]][b[1]], board[a[0]][a[1]]

    def _runs(self) -> set[tuple[int, int]]:
        """The cells of runs of three or more."""
        found = set()
        for i in range(self.size):
            for across in (True, False):
                line = [(i, j) if across else (j, i) for j in range(self.size)]
                start = 0
                for end in range(1, self.size + 1):
                    same = end < self.size and self._kind(line[end]) == self._kind(line[start])
                    if not same:
                        found.update(line[start:end] if end - start > 2 else ())
                        start = end
        return found

    def _kind(self, at: tuple[int, int]) -> int:
        return self.board[at[0]][at[1]]

    def _settle(self) -> None:
        """Let runs vanish and tiles fall; shuffle while no swap makes a run."""
        while True:
            while gone := self._runs():
                self.score += len(gone) * (len(gone) - 1)
                for j in range(self.size):
                    left = [self.board[i][j] for i in range(self.size) if (i, j) not in gone]
                    column = [self._new() for _ in range(self.size - len(left))] + left
                    for i in range(self.size):
                        self.board[i][j] = column[i]
            if self._can_go_on():
                return
            tiles = [kind for row in self.board for kind in row]
            random.shuffle(tiles)
            self.board = [tiles[i * self.size : (i + 1) * self.size] for i in range(self.size)]

    def _can_go_on(self) -> bool:
        cells = range(self.size)
        pairs = [((i, j), (i, j + 1)) for i in cells for j in cells[:-1]]
        for a, b in pairs + [((j, i), (j + 1, i)) for (i, j), _ in pairs]:
            self._swap(a, b)
            found = self._runs()
            self._swap(a, b)
            if found:
                return True
        return False


GAMES = {"2048": Merging, "shisen_sho": Pairs, "swap": Swapping}


def available() -> bool:
    """Whether pygame is installed."""
    return find_spec("pygame") is not None


def _play(name: str, seconds: float) -> float:
    """Steps a second of one process."""
    random.seed(0)
    game, steps, checksum = GAMES[name](), 0, 0
    start = perf_counter()
    while perf_counter() - start < seconds:
        checksum += int(game.step()[0, 0, 0])
        steps += 1
    return steps / (perf_counter() - start)


def steps_per_second(name: str, processes: int, seconds: float = 2.0) -> float:
    """Steps a second of so many processes together, each with a game of its own."""
    command = [sys.executable, __file__, name, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(each.communicate(timeout=60 + seconds)[0]) for each in running)


if __name__ == "__main__":
    print(_play(sys.argv[1], float(sys.argv[2])))
