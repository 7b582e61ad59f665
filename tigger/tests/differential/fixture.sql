create table item (id int primary key, name text, price numeric(8, 2), sold boolean default false);
insert into item select i, 'item ' || i, i * 1.25, i % 3 = 0 from generate_series(1, 10) i;
create table target (a int check (a > 0), b text);
create table parent (id int primary key);
create table child (parent int references parent deferrable initially deferred);
create view item_names as select name from item;
create type mood as enum ('sad', 'ok', 'happy');
create type pair as (a int, b text);
create domain positive as int check (value > 0);
create function says(text) returns int language plpgsql as $$ begin raise notice 'says %', $1; return length($1); end $$;
create function warns() returns void language plpgsql as
  $$ begin raise warning 'careful' using detail = 'the detail', hint = 'the hint', errcode = '01234'; end $$;
create function fails(text) returns int language plpgsql as
  $$ begin raise exception 'fails %', $1 using errcode = 'P4711', detail = 'd', hint = 'h', column = 'c', table = 't'; end $$;
create procedure counts(n int, inout total int) language plpgsql as
  $$ begin for i in 1..n loop total := total + i; commit; end loop; end $$;
