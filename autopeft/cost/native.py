"""Compile a small part of Python to machine code, within a tenth of a second and without a C compiler.

The part: functions of whole numbers over one memory `m`, an array of 64-bit words. There are `if`,
`while`, `for ... in range`, assignments, `m[i]`, `m[a:b] = m[c:d]`, comparisons and arithmetic of
numbers that stay within 64 bits (`//` of numbers that are not negative only), `min`, `max`, calls of
the modules' functions and their whole-number constants. Such a module is ordinary typed Python:
it runs uncompiled as well, on a list, and a test compares the two.

numba takes most of the language, but 1.2 s to start and 20 s to compile the allocator's rules.
"""

from __future__ import annotations

import ast
import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llvmlite import binding, ir

_WORD = ir.IntType(64)
_MEMORY = _WORD.as_pointer()
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "sdiv",
    ast.LShift: "shl",
    ast.RShift: "ashr",
}

_EXTREMES = {"min": "<", "max": ">"}
# Functions of at most so many statements, docstring included, are copied to where they are called.
_SHORT = 4


class Native:
    """A compiled function of the memory's address; it keeps the engine that owns the code."""

    def __init__(self, engine: Any, entry: str) -> None:
        """Find the function."""
        self._engine = engine
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self._function = kind(engine.get_function_address(entry))

    def __call__(self, address: int) -> int:
        """Run on the memory at an address."""
        return int(self._function(address))


def compile_modules(modules: Sequence[ModuleType], entry: str) -> Native:
    """Compile the functions of modules that call one another and return the one called `entry`.

    Raises:
        NotImplementedError: a module uses more than the part of Python described above.
    """
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules]
    statements = [node for source in sources for node in ast.parse(source).body]
    written = {node.name: node for node in statements if isinstance(node, ast.FunctionDef)}
    named = (each for module in modules for each in vars(module).items())
    constants = {name: value for name, value in named if isinstance(value, int)}
    return Native(_engine(str(_translated(written, constants, entry))), entry)


def _engine(text: str) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), opt=2, jit=True)
    module = binding.parse_assembly(text)
    module.verify()
    # LLVM's second level takes ten times as long and makes the allocator's rules no faster.
    passes = binding.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    passes.run(module, binding.create_pass_builder(machine, options))
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _translated(written: dict[str, ast.FunctionDef], constants: dict[str, int], entry: str) -> ir.Module:
    """Return the functions in LLVM's terms: declared first, as they call one another."""
    module = ir.Module()
    functions = {}
    for name, node in written.items():
        kind = ir.FunctionType(_WORD, [_MEMORY] + [_WORD] * (len(node.args.args) - 1))
        functions[name] = ir.Function(module, kind, name)
        if name != entry:
            functions[name].linkage = "internal"
            if len(node.body) <= _SHORT:
                functions[name].attributes.add("alwaysinline")
    for name, node in written.items():
        _Body(functions[name], node, constants, functions).translate()
    return module


class _Body:
    """The translation of one function: every local is a word on the stack, which LLVM then removes."""

    def __init__(
        self,
        function: ir.Function,
        node: ast.FunctionDef,
        constants: dict[str, int],
        functions: dict[str, ir.Function],
    ) -> None:
        self.node = node
        self.constants = constants
        self.functions = functions
        self.build = ir.IRBuilder(function.append_basic_block())
        self.memory = function.args[0]
        names = [argument.arg for argument in node.args.args[1:]]
        inner = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
        stored = [each.id for each in inner if isinstance(each.ctx, ast.Store)]
        self.locals = {name: self.build.alloca(_WORD) for name in [*names, *stored]}
        for name, value in zip(names, function.args[1:], strict=True):
            self.build.store(value, self.locals[name])

    def translate(self) -> None:
        self._block(self.node.body)
        if not self.build.block.is_terminated:
            self.build.ret(_WORD(0))

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring
            case ast.Expr(value=value):
                self._value(value)
            case ast.Return(value=value):
                self.build.ret(self._value(value) if value else _WORD(0))
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value)
            case ast.AugAssign(target=target, op=operator, value=value):
                place = self._place(target)
                self.build.store(
                    self._arithmetic(operator, self.build.load(place), self._value(value)), place
                )
            case ast.If():
                self._if(node)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(lambda: self._test(test), body)
            case ast.For(target=ast.Name() as counter, iter=ast.Call(args=[*start, stop]), orelse=[]):
                self._count(counter, start[0] if start else ast.Constant(0), stop, node.body)
            case _:
                raise NotImplementedError(ast.unparse(node))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case (
                ast.Subscript(slice=ast.Slice(lower=ast.expr() as to)),
                ast.Subscript(slice=ast.Slice(lower=ast.expr() as first, upper=ast.expr() as end)),
            ):
                self._move(self._value(to), self._value(first), self._value(end))
            case ast.Tuple(elts=targets), ast.Tuple(elts=parts):
                values = [self._value(part) for part in parts]
                for each, one in zip(targets, values, strict=True):
                    self.build.store(one, self._place(each))
            case _:
                self.build.store(self._value(value), self._place(target))

    def _move(self, to: ir.Value, first: ir.Value, end: ir.Value) -> None:
        """Copy words from `first` up to `end`, as if all were read before any is written."""
        move = self.build.module.declare_intrinsic("llvm.memmove", [_MEMORY, _MEMORY, _WORD])
        places = [self.build.gep(self.memory, [at]) for at in (to, first)]
        size = self.build.shl(self.build.sub(end, first), _WORD(3))
        self.build.call(move, [*places, size, ir.IntType(1)(0)])

    def _if(self, node: ast.If) -> None:
        test = self._test(node.test)
        if not node.orelse:
            with self.build.if_then(test):
                self._block(node.body)
            return
        with self.build.if_else(test) as (then, otherwise):
            with then:
                self._block(node.body)
            with otherwise:
                self._block(node.orelse)

    def _while(self, test: Callable[[], ir.Value], statements: list[ast.stmt]) -> None:
        head, body, end = (self.build.append_basic_block() for _ in range(3))
        self.build.branch(head)
        self.build.position_at_end(head)
        self.build.cbranch(test(), body, end)
        self.build.position_at_end(body)
        self._block(statements)
        if not self.build.block.is_terminated:
            self.build.branch(head)
        self.build.position_at_end(end)

    def _count(self, counter: ast.Name, start: ast.expr, stop: ast.expr, body: list[ast.stmt]) -> None:
        """Do the body with the counter at `start` and up to `stop`, which is looked at once."""
        end = self._value(stop)
        place = self.locals[counter.id]
        self.build.store(self._value(start), place)
        step = ast.AugAssign(counter, ast.Add(), ast.Constant(1))
        self._while(lambda: self.build.icmp_signed("<", self.build.load(place), end), [*body, step])

    def _place(self, node: ast.expr) -> ir.Value:
        match node:
            case ast.Name(id=name):
                return self.locals[name]
            case ast.Subscript(slice=at):
                return self.build.gep(self.memory, [self._value(at)])
        raise NotImplementedError(ast.unparse(node))

    def _test(self, node: ast.expr) -> ir.Value:
        if isinstance(node, ast.Compare):
            return self._compared(node)
        return self.build.icmp_signed("!=", self._value(node), _WORD(0))

    def _compared(self, node: ast.Compare) -> ir.Value:
        if len(node.ops) > 1 or type(node.ops[0]) not in _SIGNS:
            raise NotImplementedError(ast.unparse(node))
        (sign,), (other,) = node.ops, node.comparators
        return self.build.icmp_signed(_SIGNS[type(sign)], self._value(node.left), self._value(other))

    def _value(self, node: ast.expr) -> ir.Value:
        match node:
            case ast.Constant(value=int() as value):
                return _WORD(int(value))
            case ast.Name(id=name) if name not in self.locals:
                return _WORD(self.constants[name])
            case ast.Name() | ast.Subscript():
                return self.build.load(self._place(node))
            case ast.BinOp(left=left, op=operator, right=right):
                return self._arithmetic(operator, self._value(left), self._value(right))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._called(name, arguments)
        return self._chosen(node)

    def _chosen(self, node: ast.expr) -> ir.Value:
        """`a and b` is `b if a else 0`, `a or b` is `1 if a else b`: the second may not be looked at."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.build.zext(self.build.not_(self._test(operand)), _WORD)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return self.build.not_(self._value(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.build.neg(self._value(operand))
            case ast.Compare():
                return self.build.zext(self._compared(node), _WORD)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._either(test, body, orelse)
            case ast.BoolOp(op=operator, values=[first, *rest]):
                other = ast.BoolOp(operator, rest) if len(rest) > 1 else rest[0]
                both = isinstance(operator, ast.And)
                ways = (other, ast.Constant(0)) if both else (ast.Constant(1), other)
                return self._either(first, *ways)
        raise NotImplementedError(ast.unparse(node))

    def _arithmetic(self, operator: ast.operator, left: ir.Value, right: ir.Value) -> ir.Value:
        if type(operator) not in _ARITHMETIC:
            raise NotImplementedError(f"arithmetic of the kind {type(operator).__name__}")
        return getattr(self.build, _ARITHMETIC[type(operator)])(left, right)

    def _either(self, test: ast.expr, then: ast.expr, otherwise: ast.expr) -> ir.Value:
        ways = [self.build.append_basic_block() for _ in range(2)]
        end = self.build.append_basic_block()
        self.build.cbranch(self._test(test), *ways)
        values = []
        for way, expression in zip(ways, (then, otherwise), strict=True):
            self.build.position_at_end(way)
            values.append((self._value(expression), self.build.block))
            self.build.branch(end)
        self.build.position_at_end(end)
        result = self.build.phi(_WORD)
        for value, block in values:
            result.add_incoming(value, block)
        return result

    def _called(self, name: str, arguments: list[ast.expr]) -> ir.Value:
        if name in _EXTREMES:
            left, right = (self._value(each) for each in arguments)
            return self.build.select(self.build.icmp_signed(_EXTREMES[name], left, right), left, right)
        _, *values = arguments
        return self.build.call(self.functions[name], [self.memory, *map(self._value, values)])
